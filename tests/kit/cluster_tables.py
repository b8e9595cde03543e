"""Tables that the tests of a Redis Cluster load, and functions that read their rows."""

import csv
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis_cluster import RedisCluster

from features.layouts import Layouts
from service.store.base import StoredRows
from service.store.item_rows import UNKNOWN
from service.store.opening import open_store
from service.store.redis.keys import item_key, user_key

IDS = [str(i) for i in range(60)]
USERS = [str(i) for i in range(700, 712)]
NOW = int(time.time() * 1000)


async def reading(url: str, work: Callable[[Any], Awaitable[Any]], timeout_ms: int = 2000) -> Any:
    reader = open_store(url, timeout_ms, 1 << 20)
    try:
        return await work(reader)
    finally:
        reader.close()


def prices(stored: StoredRows) -> list[float]:
    return [float(p) for p in stored.items.numerics[:, 0]]


def unknown(stored: StoredRows) -> set[str]:
    return {i for i, state in zip(IDS, stored.items.states, strict=True) if state == UNKNOWN}


def belonging(cluster: RedisCluster, layouts: Layouts, node: int) -> set[str]:
    return {i for i in IDS if cluster.owner(item_key(layouts.fingerprint, i)) is cluster.nodes[node]}


def a_user_of(cluster: RedisCluster, layouts: Layouts, node: int) -> str:
    return next(u for u in USERS if cluster.owner(user_key(layouts.fingerprint, u)) is cluster.nodes[node])


def write_tables(folder: Path) -> Path:
    """Sixty items, twelve users with eight behaviours each."""
    rows: dict[str, list[list[Any]]] = {
        "items": [
            ["item_id", "tag", "topics", "price", "quality"],
            *([i, f"t{int(i) % 7}", None, int(i), None] for i in IDS),
        ],
        "users": [["user_id", "gender", "interests", "age"], *([u, "f", None, int(u) - 680] for u in USERS)],
        "behaviours": [
            ["user_id", "item_id", "action", "scene", "time_ms"],
            *([u, i, "click", 1, NOW - int(i)] for u in USERS for i in IDS[:8]),
        ],
    }
    for name, table in rows.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return folder
