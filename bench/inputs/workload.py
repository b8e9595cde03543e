"""Makes request bodies that all differ in user and candidates, so that no request warms the cache for the next."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from bench.inputs.store import NOW_MS, USERS, item_id, user_id

BODIES = 128
# Candidates are drawn from this many items, whatever the size of the catalogue: real traffic shows a small part of it.
HOT_ITEMS = 10_000


@dataclass(frozen=True)
class RequestSet:
    """Requests of one size: their bodies on disk, one per line, and their size."""

    candidates: int
    behaviours: int
    bodies: Path
    users: list[str]
    item_ids: list[list[str]]


def make(folder: Path, candidates: int, behaviours: int, bodies: int = BODIES) -> RequestSet:
    """Make `bodies` requests of `candidates` different items each, drawn evenly from the hot ones."""
    rng = np.random.default_rng(candidates * 1000 + behaviours)
    users = [user_id(i % USERS, behaviours) for i in range(bodies)]
    drawn = [[item_id(int(i)) for i in rng.choice(HOT_ITEMS, candidates, replace=False)] for _ in range(bodies)]
    return write(folder / f"c{candidates}-l{behaviours}.jsonl", candidates, behaviours, users, drawn)


def make_cold(folder: Path, candidates: int, behaviours: int, items: int) -> RequestSet:
    """Make requests that name each item beyond the hot ones once, so that no candidate is in the cache."""
    bodies = (items - HOT_ITEMS) // candidates
    users = [user_id(i % USERS, behaviours) for i in range(bodies)]
    drawn = [[item_id(HOT_ITEMS + n * candidates + i) for i in range(candidates)] for n in range(bodies)]
    return write(folder / f"cold-c{candidates}-l{behaviours}.jsonl", candidates, behaviours, users, drawn)


def write(path: Path, candidates: int, behaviours: int, users: list[str], drawn: list[list[str]]) -> RequestSet:
    context = {"tab": 1, "hour": 20}
    lines = [
        orjson.dumps({"user_id": user, "candidates": ids, "context": context, "timestamp": NOW_MS})
        for user, ids in zip(users, drawn, strict=True)
    ]
    path.write_bytes(b"\n".join(lines))
    return RequestSet(candidates, behaviours, path, users, drawn)
