"""Tests a Redis Cluster of six nodes under load: no row is ever another one's, whatever moves and whatever dies."""

import asyncio
import csv
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_tables import reading
from redis_cluster import RedisCluster, redis_cluster

from features import FeatureSchema
from features.layouts import Layouts
from service.store.base import StoreDown
from service.store.item_rows import UNKNOWN
from service.store.redis.loading.load import load_folder

ITEMS = 3000
USERS = 1000
READERS = 4
SLOTS_MOVED = 60
CANDIDATES = 60


@dataclass
class Seen:
    """What the readers saw: whole reads, reads that said that rows are missing, and what was wrong."""

    whole: int = 0
    partial: int = 0
    wrong: list[str] = field(default_factory=list)


def write_rows(folder: Path) -> None:
    """Items whose price is their id, and users whose age is."""
    rows: dict[str, list[list[Any]]] = {
        "items": [["item_id", "tag", "topics", "price", "quality"]]
        + [[str(i), f"t{i % 7}", None, i, None] for i in range(ITEMS)],
        "users": [["user_id", "gender", "interests", "age"]] + [[f"u{u}", "f", None, u] for u in range(USERS)],
    }
    for name, table in rows.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(table)


async def read_on(reader: Any, layouts: Layouts, seed: int, seen: Seen, ending: asyncio.Event) -> None:
    """Read random candidates of random users until the end, and compare every row with what was loaded."""
    drawn = random.Random(seed)
    while not ending.is_set():
        ids = [str(i) for i in drawn.sample(range(ITEMS), CANDIDATES)]
        try:
            stored = await reader.fetch(layouts, f"u{drawn.randrange(USERS)}", ids, 2)
        except StoreDown:
            seen.partial += 1
            continue
        absent = np.array([state == UNKNOWN for state in stored.items.states])
        prices = np.asarray(stored.items.numerics)[:, 0]
        expected = np.array([float(i) for i in ids])
        if not np.array_equal(prices[~absent], expected[~absent]):
            seen.wrong.append(f"rows of others: {prices[~absent]} for {expected[~absent]}")
        # A row that could not be read is said to be unread; the user's may be one more.
        if absent.sum() > stored.unread:
            seen.wrong.append(f"{absent.sum()} items are unknown, and {stored.unread} rows were not read")
        if stored.unread:
            seen.partial += 1
        else:
            seen.whole += 1


def move_slots(cluster: RedisCluster) -> None:
    """Move slots with their keys from the first node to the second, and half of them back."""
    first, second = cluster.nodes[:2]
    for slot in range(SLOTS_MOVED):
        cluster.move(slot, first, second)
    for slot in range(SLOTS_MOVED // 2):
        cluster.move(slot, second, first)


async def until_more(seen: Seen, whole: int) -> None:
    """Wait for so many more whole reads."""
    target = seen.whole + whole
    async with asyncio.timeout(60):
        while seen.whole < target:
            await asyncio.sleep(0.05)


@pytest.mark.slow  # six processes, a resharding and a failover
async def test_no_row_is_wrong_while_slots_move_and_a_primary_dies(
    tmp_path: Path, schema: FeatureSchema, layouts: Layouts
) -> None:
    write_rows(tmp_path)
    with redis_cluster() as cluster, ExitStack() as replicas:
        load_folder(tmp_path, schema, cluster.url)
        for node in cluster.nodes:
            replicas.enter_context(cluster.replica_of(node))
        seen = Seen()

        async def work(reader: Any) -> None:
            ending = asyncio.Event()
            readers = [asyncio.create_task(read_on(reader, layouts, seed, seen, ending)) for seed in range(READERS)]
            try:
                # A resharding loses nothing.
                await until_more(seen, 20)
                await asyncio.to_thread(move_slots, cluster)
                await until_more(seen, 20)
                assert (seen.partial, seen.wrong) == (0, [])
                # Until the replica has taken over, rows are missing, and said to be.
                await asyncio.to_thread(cluster.nodes[2].kill)
                async with asyncio.timeout(60):
                    while not seen.partial:
                        await asyncio.sleep(0.02)
                await until_more(seen, 200)
            finally:
                ending.set()
                await asyncio.gather(*readers)

        await reading(cluster.url, work)
        assert seen.wrong == []
        assert seen.partial > 0
