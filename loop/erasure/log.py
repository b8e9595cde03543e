"""Erases a user from an exposure log, and searches the log for what is left."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from loop.errors import LogError
from loop.log.compact import DAMAGED, alone, compact
from loop.log.hours import HOURS, hour_files, records_of, rewrite_hour
from loop.log.streams import batches, checked, spool_files
from loop.log.tombstones import Tombstone, add_tombstone, forgotten, hash_of, requests_by_user, without_forgotten
from service.clock import now_ms
from service.exposures.folder import SPOOL
from tables.log_records import RecordKind

# Exposures are erased last: they alone say which requests, and so which impressions, are the user's.
_ORDER = (RecordKind.IMPRESSIONS, RecordKind.EVENTS, RecordKind.EXPOSURES)


def forget_in_log(log: Path, user_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many records were removed from each kind of file, and how many are left, by file.

    It may be interrupted at any time and run again. Files that a worker writes are left to the next compaction, which
    leaves the user's records out. Raises LogError if this is no log, or if a compaction runs.
    """
    if not (log / SPOOL).is_dir():
        raise LogError(f"{log} is no exposure log: it has no folder '{SPOOL}' (FUNNELRANK_EXPOSURE_LOG)")
    user = hash_of(user_id)
    # The tombstone comes before any record is removed, so that an interrupted run knows the requests.
    requests: set[str] = set()
    for kind, _, batch in _records(log):
        if kind == RecordKind.EXPOSURES:
            requests |= requests_by_user(batch).get(user, set())
    tombstone = add_tombstone(log, user, now_ms(), requests)
    # The closed files of the spool become hours, without the user.
    compact(log)
    with alone(log):
        removed = _rewrite(log, tombstone)
        removed[DAMAGED] = _remove_unsearchable(log)
    return removed, _left(log, tombstone)


def _rewrite(log: Path, tombstone: Tombstone) -> dict[str, int]:
    removed = {}
    for kind in _ORDER:
        keep = partial(_without, kind, tombstone)
        removed[kind.value] = sum(rewrite_hour(path, kind, keep) for path in hour_files(log, kind))
    return removed


def _without(kind: RecordKind, tombstone: Tombstone, batch: pa.RecordBatch) -> pa.RecordBatch:
    return without_forgotten(kind, batch, [tombstone])


def _remove_unsearchable(log: Path) -> int:
    """Remove files that cannot be searched: damaged ones, whose readable part is in the hours, and unfinished ones."""
    damaged = [path for path in (log / DAMAGED).glob("*") if path.is_file()]
    # `replacing` leaves a hidden file if the process is killed.
    unfinished = [path for path in (log / HOURS).glob("*/.*.parquet.*") if path.is_file()]
    for path in (*damaged, *unfinished):
        path.unlink()
    return len(damaged)


def _left(log: Path, tombstone: Tombstone) -> dict[str, int]:
    """Search every file of the log, those of living workers too. Gives the number of the user's records by file."""
    left: dict[str, int] = {}
    for kind, path, batch in _records(log):
        count = int(forgotten(kind, batch, [tombstone]).true_count)
        if count:
            left[str(path)] = left.get(str(path), 0) + count
    return left


def _records(log: Path) -> Iterator[tuple[RecordKind, Path, pa.RecordBatch]]:
    for kind in RecordKind:
        for path in hour_files(log, kind):
            for batch in records_of(path):
                yield kind, path, batch
    spooled = spool_files(log)
    for check in (*spooled.readable, *(checked(path) for path in spooled.in_use if path.exists())):
        for batch in batches(check):
            assert check.kind is not None
            yield check.kind, check.path, batch
