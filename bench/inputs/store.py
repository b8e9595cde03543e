"""Fills Redis for the benchmark: the sample's users and items, and as many more items as requested.

The service reads packed rows under its own keys; the plain peer reads JSON. The peer's JSON has ready hash keys and
numbers, so the peer does not pay for hashing, and only its reading and building differ.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from redis import Redis

from features import RowLayout
from features.layouts import Layouts
from service.store.redis.keys import behaviours_key, item_key, user_key
from service.store.redis.loading.schemas import register_schema
from tables import open_table, packed_rows
from tables.packing import feature_columns, list_columns

USERS = 64
_BATCH = 5_000
NOW_MS = 1_652_025_600_000


def item_id(place: int) -> str:
    return f"v{place}"


def user_id(place: int, behaviours: int) -> str:
    return f"u{place}-{behaviours}"


def fill(redis: "Redis", layouts: Layouts, tables: Path, items: int, peer: bool) -> None:
    """Store `items` items, drawn from the sample's rows, for the service, and for the plain peer if `peer`."""
    rows = _rows(layouts.item, tables / "items.parquet")
    drawn = rows[np.random.default_rng(1).integers(len(rows), size=items)]
    for start in range(0, items, _BATCH):
        part = drawn[start : start + _BATCH]
        ids = [item_id(start + i) for i in range(len(part))]
        redis.mset({item_key(layouts.fingerprint, i): row.tobytes() for i, row in zip(ids, part, strict=True)})
        if peer:
            redis.mset({f"item:{i}": document for i, document in zip(ids, _documents(layouts.item, part), strict=True)})
    register_schema(redis, layouts.schema)


def fill_users(redis: "Redis", layouts: Layouts, tables: Path, lengths: tuple[int, ...]) -> None:
    """Store, for each length, `USERS` users with that many behaviours."""
    users = _rows(layouts.user, tables / "users.parquet")
    items = _rows(layouts.item, tables / "items.parquet")
    rng = np.random.default_rng(2)
    for length in lengths:
        documents = _documents(layouts.user, users[:USERS])
        for place, document in zip(range(USERS), documents, strict=True):
            name = user_id(place, length)
            redis.set(user_key(layouts.fingerprint, name), users[place].tobytes())
            redis.set(f"user:{name}", document)
            if layouts.behaviour is None or not length:
                continue
            times = NOW_MS - 60_000 * np.arange(1, length + 1)
            actions = rng.choice(np.array(["click", "exposure"], dtype=object), length)
            scenes = np.full(length, 1)
            behaviours = layouts.behaviour.of_items(
                items[rng.integers(len(items), size=length)], actions, scenes, times
            )
            members = {i.to_bytes(8, "big") + row.tobytes(): int(times[i]) for i, row in enumerate(behaviours)}
            redis.zadd(behaviours_key(layouts.fingerprint, name), members)
            history = [
                _document(layouts.behaviour, row) | {"time": int(row["time"]), "keys": row["keys"].tolist()}
                for row in behaviours
            ]
            redis.set(f"history:{name}", orjson.dumps(history))


def _rows(layout: RowLayout, table: Path) -> np.ndarray:
    batches = open_table(table, table.stem).batches(feature_columns(layout), list_columns(layout))
    return np.concatenate([packed_rows(layout, batch) for batch in batches])


def _document(layout: RowLayout, row: Any) -> dict[str, Any]:
    """Return a row in the usual form: one JSON entry per feature."""
    keys = row["keys"].tolist()
    numerics = row["numerics"].tolist()
    document: dict[str, Any] = {}
    for name, columns in layout.key_columns.items():
        values = keys[columns]
        document[name] = values if len(values) > 1 else values[0]
    for name, column in layout.numeric_columns.items():
        document[name] = None if np.isnan(numerics[column]) else numerics[column]
    return document


def _documents(layout: RowLayout, rows: np.ndarray) -> Iterator[bytes]:
    for row in rows:
        yield orjson.dumps(_document(layout, row))
