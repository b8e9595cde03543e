"""Tests reads from the replicas of a Redis Cluster: no row is missing while slots move and replicas hang."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from cluster_tables import IDS, NOW, USERS, prices, unknown, write_tables
from redis.crc import key_slot
from redis_cluster import Node, RedisCluster, redis_cluster

from features import FeatureSchema
from features.layouts import Layouts
from service.store.opening import open_store
from service.store.redis.keys import item_key
from service.store.redis.loading.load import load_folder

LAG_MS = 400
# For tests in which replicas have to be read, however long a busy machine stops.
LONG_LAG_MS = 8_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, schema: FeatureSchema) -> Iterator[RedisCluster]:
    """Three loaded primaries with a replica each."""
    with redis_cluster() as started, ExitStack() as stack:
        load_folder(write_tables(tmp_path_factory.mktemp("tables")), schema, started.url)
        started.replicas = [stack.enter_context(started.replica_of(node)) for node in started.nodes]
        yield started


@asynccontextmanager
async def reading(
    cluster: RedisCluster, layouts: Layouts, cache_bytes: int, lag_ms: int = LAG_MS
) -> AsyncIterator[Any]:
    """A reader that reads every slot from a replica."""
    reader: Any = open_store(cluster.url, 2000, cache_bytes, replica_lag_ms=lag_ms)
    try:
        await all_from_replicas(reader, layouts)
        yield reader
    finally:
        reader.close()


async def all_from_replicas(reader: Any, layouts: Layouts) -> None:
    async with asyncio.timeout(30):
        while True:
            await reader.fetch(layouts, USERS[0], IDS, 2)
            if all(node.is_replica for node in reader._topology.readers):
                return
            await asyncio.sleep(0.01)


def calls(node: Node, command: str) -> int:
    return int(node.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_all_rows_come_from_replicas(cluster: RedisCluster, layouts: Layouts, cache_bytes: int) -> None:
    async with reading(cluster, layouts, cache_bytes, LONG_LAG_MS) as reader:
        before = [calls(node, "mget") for node in cluster.nodes]
        reader.cache_counts()
        for user in USERS:
            stored = await reader.fetch(layouts, user, IDS, 2, NOW + 1)
            assert (stored.unread, unknown(stored), len(stored.behaviours)) == (0, set(), 5)
            assert prices(stored) == [float(i) for i in IDS]
        assert [calls(node, "mget") for node in cluster.nodes] == before
        counts = reader.cache_counts()
        assert (counts["replica_reads"], counts["replica_fallbacks"]) == (len(USERS), 0)
        assert 0 <= counts["replica_staleness_ms"] < LONG_LAG_MS


async def test_a_changed_row_is_read_within_the_bound_although_it_is_cached(
    cluster: RedisCluster, layouts: Layouts
) -> None:
    async with reading(cluster, layouts, 1 << 20) as reader:
        try:
            for price in (100, 101):
                for item_id in IDS:
                    key = item_key(layouts.fingerprint, item_id)
                    row = layouts.item.pack({"item_id": item_id, "price": price})
                    await asyncio.to_thread(cluster.owner(key).ask, "SET", key, row)
                await asyncio.sleep(LAG_MS / 1000)
                for _ in range(2):
                    assert prices(await reader.fetch(layouts, USERS[0], IDS, 2)) == [price] * len(IDS)
            counts = reader.cache_counts()
            assert counts["hits"] > 0
            assert counts["invalidations"] > 0
        finally:
            restore_prices(cluster, layouts)


def restore_prices(cluster: RedisCluster, layouts: Layouts) -> None:
    for item_id in IDS:
        key = item_key(layouts.fingerprint, item_id)
        row = layouts.item.pack({"item_id": item_id, "tag": f"t{int(item_id) % 7}", "price": int(item_id)})
        cluster.owner(key).ask("SET", key, row)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_slot_that_moves_loses_no_row(cluster: RedisCluster, layouts: Layouts, cache_bytes: int) -> None:
    """The replicas of the source have lost the row before they know that its slot has moved, and say nothing of it."""
    key = item_key(layouts.fingerprint, "7")
    slot = key_slot(key.encode())
    source = cluster.owner(key)
    target = next(node for node in cluster.nodes if node is not source)
    async with reading(cluster, layouts, cache_bytes) as reader:
        loop = asyncio.get_running_loop()

        def seen() -> tuple[float, int]:
            stored = asyncio.run_coroutine_threadsafe(reader.fetch(layouts, USERS[0], IDS, 2), loop).result(10)
            return prices(stored)[7], stored.unread

        def halfway() -> None:
            assert seen() == (7, 0)
            assert source.ask("WAIT", 1, 5000) == 1
            assert [seen() for _ in range(3)] == [(7, 0)] * 3

        def moves() -> None:
            for one, other in ((source, target), (target, source)):
                cluster.move(slot, one, other, halfway)
                assert [seen() for _ in range(3)] == [(7, 0)] * 3

        await asyncio.to_thread(moves)
        assert calls(target, "asking") > 0


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_replicas_that_hang_cost_no_row(cluster: RedisCluster, layouts: Layouts, cache_bytes: int) -> None:
    async with reading(cluster, layouts, cache_bytes, LONG_LAG_MS) as reader:
        reader.cache_counts()
        for replica in cluster.replicas[:2]:
            os.kill(replica.pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                stored = await reader.fetch(layouts, USERS[0], IDS, 2)
                assert (stored.unread, unknown(stored)) == (0, set())
                assert prices(stored) == [float(i) for i in IDS]
            assert reader.cache_counts()["replica_fallbacks"] == 1
        finally:
            for replica in cluster.replicas[:2]:
                os.kill(replica.pid, signal.SIGCONT)
        await all_from_replicas(reader, layouts)
