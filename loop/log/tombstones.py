"""Tombstones of forgotten users: which records a compaction leaves out.

LOG/forgotten/<hash of the user's id>.json

A worker may still have records of a forgotten user in a file that it writes, and impressions name no user. So a
tombstone names, by hashes, the user and the requests that were ranked for the user.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from features.files.writing import write_whole
from loop.errors import LogError
from tables.log_records import RecordKind

FORGOTTEN: Final = "forgotten"


@dataclass(frozen=True)
class Tombstone:
    """A forgotten user, by the hash of the id: records logged up to `until_ms` are left out.

    `requests` are hashes of the requests that were ranked for the user; their impressions are left out at any time.
    """

    user: str
    until_ms: int
    requests: frozenset[str] = frozenset()


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def read_tombstones(log: Path) -> list[Tombstone]:
    """Read the tombstones of a log. Raises LogError if one cannot be read."""
    return [_read(path) for path in sorted((log / FORGOTTEN).glob("[0-9a-f]*.json"))]


def add_tombstone(log: Path, user: str, until_ms: int, requests: Collection[str]) -> Tombstone:
    """Write the tombstone of a user, given by hash; requests and time of an earlier one stay."""
    path = log / FORGOTTEN / f"{user}.json"
    path.parent.mkdir(exist_ok=True)
    before = _read(path) if path.exists() else Tombstone(user, 0)
    joined = Tombstone(user, max(until_ms, before.until_ms), before.requests.union(requests))
    document = {"user": user, "until_ms": joined.until_ms, "requests": sorted(joined.requests)}
    write_whole(path, json.dumps(document).encode())
    return joined


def _read(path: Path) -> Tombstone:
    try:
        document = json.loads(path.read_bytes())
        return Tombstone(str(document["user"]), int(document["until_ms"]), frozenset(document["requests"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LogError(f"{path} cannot be read ({type(error).__name__}: {error}); forget the user again") from None


def forgotten(kind: RecordKind, batch: pa.RecordBatch, tombstones: Iterable[Tombstone]) -> pa.BooleanArray:
    """Return for each record whether it belongs to a forgotten user."""
    if kind == RecordKind.IMPRESSIONS:
        requests = frozenset[str]().union(*(each.requests for each in tombstones))
        return pa.array([name is not None and name in requests for name in _hashes(batch, "request_id")], pa.bool_())
    until = {each.user: each.until_ms for each in tombstones}
    times = batch.column("logged_ms").to_pylist()
    pairs = zip(_hashes(batch, "user_id"), times, strict=True)
    return pa.array([(at or 0) <= until.get(user or "", -1) for user, at in pairs], pa.bool_())


def without_forgotten(kind: RecordKind, batch: pa.RecordBatch, tombstones: Collection[Tombstone]) -> pa.RecordBatch:
    """Return the records of a batch that belong to no forgotten user."""
    return batch.filter(pc.invert(forgotten(kind, batch, tombstones))) if tombstones else batch


def requests_by_user(batch: pa.RecordBatch) -> dict[str, set[str]]:
    """Return the hashes of the requests in a batch of exposures by the hash of their user."""
    requests: dict[str, set[str]] = {}
    for user, request in zip(_hashes(batch, "user_id"), _hashes(batch, "request_id"), strict=True):
        if user is not None and request is not None:
            requests.setdefault(user, set()).add(request)
    return requests


def _hashes(batch: pa.RecordBatch, column: str) -> list[str | None]:
    """Return the hash of each value of a column; each different value is hashed once."""
    encoded = batch.column(column).dictionary_encode()
    names = [hash_of(name) if name is not None else None for name in encoded.dictionary.to_pylist()]
    return [None if place is None else names[place] for place in encoded.indices.to_pylist()]
