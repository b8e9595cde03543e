"""Tests a Redis Cluster that loses nodes: the others are still read, and after a failover rankings are
complete again.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_tables import IDS, NOW, a_user_of, belonging, prices, reading, unknown, write_tables
from redis_cluster import RedisCluster, redis_cluster, wait_for

from features import FeatureSchema
from features.layouts import Layouts
from service.store.base import StoreDown, StoredRows
from service.store.item_rows import UNKNOWN
from service.store.redis.keys import SCHEMAS
from service.store.redis.loading.load import load_folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def cluster(tables: Path, schema: FeatureSchema) -> Iterator[RedisCluster]:
    """Three loaded nodes, for tests that leave them as they were."""
    with redis_cluster() as started:
        assert load_folder(tables, schema, started.url) == {"items": 60, "users": 12, "behaviours": 96}
        yield started


async def test_a_node_that_is_away_takes_its_own_rows_along_and_no_others(
    tables: Path, schema: FeatureSchema, layouts: Layouts
) -> None:
    with redis_cluster() as cluster:
        load_folder(tables, schema, cluster.url)
        lost_node = cluster.nodes.index(cluster.owner(SCHEMAS))
        lost = belonging(cluster, layouts, lost_node)
        here = a_user_of(cluster, layouts, lost_node - 1)
        there = a_user_of(cluster, layouts, lost_node)
        assert 0 < len(lost) < len(IDS)

        async def work(reader: Any) -> None:
            whole = await reader.fetch(layouts, here, IDS, 2)
            assert (unknown(whole), whole.unread, len(whole.behaviours)) == (set(), 0, 5)
            listed = await reader.schemas()
            await asyncio.to_thread(cluster.nodes[lost_node].kill)
            for _ in range(3):
                part = await reader.fetch(layouts, here, IDS, 2)
                assert (unknown(part), part.unread) == (lost, len(lost))
                assert (part.user, part.behaviours) == (whole.user, whole.behaviours)
            assert [price for i, price in zip(IDS, prices(part), strict=True) if i not in lost] == [
                float(i) for i in IDS if i not in lost
            ]
            without = await reader.fetch(layouts, there, IDS, 2)
            assert (without.user, without.behaviours, without.unread) == (None, [], len(lost) + 1)
            assert await reader.schemas() == listed != {}
            await asyncio.to_thread(cluster.nodes[lost_node].start)
            await until(reader, lambda stored: stored.unread == 0)
            await asyncio.to_thread(load_folder, tables, schema, cluster.url)
            assert prices(await reader.fetch(layouts, here, IDS, 2)) == [float(i) for i in IDS]

        async def until(reader: Any, holds: Callable[[StoredRows], bool]) -> None:
            async with asyncio.timeout(60):
                while not holds(await reader.fetch(layouts, here, IDS, 2)):
                    await asyncio.sleep(0.02)

        await reading(cluster.url, work)


async def test_a_node_that_hangs_costs_no_more_than_the_timeout_and_its_rows_in_the_cache_do_not_count(
    cluster: RedisCluster, layouts: Layouts, kit: SimpleNamespace
) -> None:
    lost = belonging(cluster, layouts, 2)
    here = a_user_of(cluster, layouts, 0)

    async def work(reader: Any) -> None:
        assert unknown(await reader.fetch(layouts, here, IDS, 2)) == set()
        os.kill(cluster.nodes[2].pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                stored = await reader.fetch(layouts, here, IDS, 2)
                assert (unknown(stored), stored.unread) == (lost, len(lost))
        finally:
            os.kill(cluster.nodes[2].pid, signal.SIGCONT)
        goes_on = time.monotonic()
        async with asyncio.timeout(60):
            while unknown(await reader.fetch(layouts, here, IDS, 2)):
                await asyncio.sleep(0.02)
        kit.recovered("a cluster's node hanging, from when it goes on", goes_on)

    await reading(cluster.url, work, timeout_ms=300)


def test_a_failover_is_followed_without_a_failed_ranking(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, tables: Path, schema: FeatureSchema, layouts: Layouts
) -> None:
    def degraded(user_id: str) -> set[str]:
        answer = server.rank(IDS, user_id=user_id)
        assert answer.status_code == 200, answer.text
        return set(answer.json()["degraded"])

    with redis_cluster() as cluster:
        load_folder(tables, schema, cluster.url)
        lost_node = cluster.nodes[0]
        there = a_user_of(cluster, layouts, 0)
        elsewhere = a_user_of(cluster, layouts, 1)
        event = {"user_id": there, "item_id": "1", "action": "click", "timestamp": NOW}
        with cluster.replica_of(lost_node) as replica, kit.serving(tmp_path, registry, cluster.url) as server:
            # The replica takes over when the answers without its primary have been seen, and not before.
            replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
            assert degraded(there) == degraded(elsewhere) == set()
            lost_node.kill()
            assert f"unknown_items:{len(belonging(cluster, layouts, 0))}" in degraded(elsewhere)
            assert "unknown_user" in degraded(there)
            assert f"store_unavailable:{len(belonging(cluster, layouts, 0))}" in degraded(elsewhere), (
                "rows that are not read are not merely unknown"
            )
            assert server.http.get("/readyz").status_code == 200
            assert (refused := server.http.post("/events", json={"events": [event]})).status_code == 503, refused.text
            promoted = time.monotonic()
            replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")
            kit.wait_until(lambda: degraded(there) == degraded(elsewhere) == set())
            kit.recovered("a cluster's primary killed (cluster-node-timeout 1 s), from when its replica may", promoted)
            kit.wait_until(lambda: server.http.post("/events", json={"events": [event]}).status_code == 200)
            assert "is away" in server.log_lines
            assert 'outcome="internal_error"' not in server.http.get("/metrics").text


async def test_a_cluster_that_is_gone_is_a_store_that_is_down_until_it_is_back(
    layouts: Layouts, kit: SimpleNamespace
) -> None:
    async def work(reader: Any) -> None:
        for node in cluster.nodes:
            await asyncio.to_thread(node.kill)
        for ask in (lambda: reader.fetch(layouts, "1", IDS, 2), lambda: reader.item_rows(layouts, IDS), reader.schemas):
            with pytest.raises(StoreDown, match="cannot connect"):
                await ask()
        for node in cluster.nodes:
            await asyncio.to_thread(node.start)
        back = time.monotonic()
        async with asyncio.timeout(60):
            while True:
                try:
                    assert (await reader.fetch(layouts, "1", IDS, 2)).unread == 0
                    break
                except (StoreDown, AssertionError):
                    await asyncio.sleep(0.02)
        kit.recovered("a whole cluster gone, from when its nodes are back", back)

    with redis_cluster() as cluster:
        await reading(cluster.url, work)


@pytest.mark.parametrize("reads_when_down", ["no", "yes"])
async def test_half_a_cluster_gone_is_read_where_redis_allows_it(
    tables: Path, schema: FeatureSchema, layouts: Layouts, reads_when_down: str
) -> None:
    with redis_cluster("--cluster-allow-reads-when-down", reads_when_down) as cluster:
        load_folder(tables, schema, cluster.url)
        here = belonging(cluster, layouts, 0)
        user = a_user_of(cluster, layouts, 0)

        async def work(reader: Any) -> None:
            await reader.fetch(layouts, user, IDS, 2)
            for node in cluster.nodes[1:]:
                await asyncio.to_thread(node.kill)
            await asyncio.to_thread(wait_for, lambda: cluster.nodes[0].info()["cluster_state"] == "fail")
            if reads_when_down == "no":
                with pytest.raises(StoreDown, match="CLUSTERDOWN"):
                    await reader.fetch(layouts, user, IDS, 2)
                return
            stored = await reader.fetch(layouts, user, IDS, 2)
            assert stored.user is not None
            assert {i for i, state in zip(IDS, stored.items.states, strict=True) if state != UNKNOWN} == here

        await reading(cluster.url, work)
