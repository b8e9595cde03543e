"""Tests a Redis Cluster: it ranks as one Redis does, in part while a node is away, whole again after a failover."""

import asyncio
import csv
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis_cluster import RedisCluster, redis_cluster, wait_for

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import StoreDown, StoredRows
from service.store.item_rows import UNKNOWN
from service.store.opening import open_store
from service.store.redis.inspect import shown
from service.store.redis.keys import SCHEMAS, item_key, user_key
from service.store.redis.load import load_folder

IDS = [str(i) for i in range(60)]
USERS = [str(i) for i in range(700, 712)]
NOW = int(time.time() * 1000)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
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


@pytest.fixture(scope="module")
def cluster(tables: Path, schema: FeatureSchema) -> Iterator[RedisCluster]:
    """Three loaded nodes, for tests that leave them as they were."""
    with redis_cluster() as started:
        assert load_folder(tables, schema, started.url) == {"items": 60, "users": 12, "behaviours": 96}
        yield started


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, cluster: RedisCluster) -> Iterator[Any]:
    """A service with two workers over that cluster."""
    folder = tmp_path_factory.mktemp("served")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", cluster.url, workers=2) as server:
        yield server


def reading(url: str, work: Callable[[Any], Awaitable[Any]], timeout_ms: int = 2000) -> Any:
    async def go() -> Any:
        reader = open_store(url, timeout_ms, 1 << 20)
        try:
            return await work(reader)
        finally:
            reader.close()

    return asyncio.run(go())


def prices(stored: StoredRows) -> list[float]:
    return [float(p) for p in stored.items.numerics[:, 0]]


def unknown(stored: StoredRows) -> set[str]:
    return {i for i, state in zip(IDS, stored.items.states, strict=True) if state == UNKNOWN}


def belonging(cluster: RedisCluster, layouts: Layouts, node: int) -> set[str]:
    return {i for i in IDS if cluster.owner(item_key(layouts.fingerprint, i)) is cluster.nodes[node]}


def a_user_of(cluster: RedisCluster, layouts: Layouts, node: int) -> str:
    return next(u for u in USERS if cluster.owner(user_key(layouts.fingerprint, u)) is cluster.nodes[node])


def test_rankings_from_a_cluster_are_those_from_one_redis(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    served: Any,
    tables: Path,
    schema: FeatureSchema,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    load_folder(tables, schema, redis_server.url)
    asked = [(user, [*IDS[start:], "unheard-of"], NOW) for user in (*USERS, "a stranger") for start in (0, 0, 25)]
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        answers = [
            [each.rank(ids, user_id=user, timestamp=at).json() for user, ids, at in asked] for each in (server, served)
        ]
    for one, many in zip(*answers, strict=True):
        assert len(one["ranking"]) > 30
        assert (one["ranking"], one["degraded"]) == (many["ranking"], many["degraded"])


def test_what_is_written_over_http_is_in_the_next_ranking_of_every_worker(served: Any) -> None:
    def scores() -> tuple[float, ...]:
        found = {
            item["item_id"]: item["score"]
            for item in served.rank(IDS, user_id=USERS[0], timestamp=NOW + 10).json()["ranking"]
        }
        return tuple(found[i] for i in IDS)

    before = {scores() for _ in range(10)}
    assert len(before) == 1
    changed = [{"item_id": i, "features": {"quality": 40 + int(i)}} for i in IDS]
    assert served.put("/features/items", {"items": changed}).status_code == 200
    after = {scores() for _ in range(10)}
    assert len(after) == 1
    assert all(new != old for new, old in zip(after.pop(), before.pop(), strict=True)), "of items on every node"
    event = {"user_id": USERS[0], "item_id": "3", "action": "click", "timestamp": NOW + 5}
    seen = scores()
    assert served.http.post("/events", json={"events": [event, event | {"user_id": USERS[1]}]}).json() == {
        "accepted": 2,
        "new": 2,
    }
    assert scores() != seen


def test_a_changed_row_is_seen_by_the_very_next_ranking_whose_rows_are_all_in_the_cache(
    cluster: RedisCluster, layouts: Layouts
) -> None:
    async def work(reader: Any) -> list[bool]:
        seen = []
        for price in range(1000, 1100):
            changed = IDS[price % len(IDS)]
            key = item_key(layouts.fingerprint, changed)
            row = layouts.item.pack({"item_id": changed, "price": price})
            await asyncio.to_thread(cluster.owner(key).ask, "SET", key, row)
            stored = await reader.fetch(layouts, USERS[0], IDS, 2)
            seen.append(prices(stored)[int(changed)] == price)
        assert reader.caches[0].hits > 100 * (len(IDS) - 3)
        return seen

    assert reading(cluster.url, work) == [True] * 100


def test_a_cluster_can_be_inspected(cluster: RedisCluster, layouts: Layouts) -> None:
    for user in USERS[:4]:
        found, text = shown(cluster.url, "user", user)
        assert found
        assert f"age                     {int(user) - 680}" in text
        assert "5 behaviours, newest first" in text
    assert shown(cluster.url, "item", "unheard-of")[0] is False


def test_a_slot_that_moves_is_followed_on_its_way_and_after(cluster: RedisCluster, layouts: Layouts) -> None:
    key = item_key(layouts.fingerprint, "7")
    slot = key_slot(key.encode())
    source = cluster.owner(key)
    target = next(node for node in cluster.nodes if node is not source)

    async def work(reader: Any) -> None:
        loop = asyncio.get_running_loop()

        def seen() -> tuple[float, int]:
            stored = asyncio.run_coroutine_threadsafe(reader.fetch(layouts, USERS[0], IDS, 2), loop).result(10)
            return prices(stored)[7], stored.unread

        def write(node: Any, price: float) -> None:
            node.ask("SET", key, layouts.item.pack({"item_id": "7", "price": price}))

        def moves() -> None:
            write(source, 70)
            assert seen() == (70, 0)
            on_its_way: list[tuple[float, int]] = []
            cluster.move(slot, source, target, lambda: on_its_way.append(seen()))
            assert on_its_way == [(70, 0)]
            assert "cmdstat_asking" in target.ask("INFO", "commandstats")
            for price in (71, 72, 73):
                write(target, price)
                assert seen() == (price, 0)
            cluster.move(slot, target, source)
            assert seen() == (73, 0)

        await asyncio.to_thread(moves)

    reading(cluster.url, work)


def test_a_node_that_is_away_takes_its_own_rows_along_and_no_others(
    tables: Path, schema: FeatureSchema, layouts: Layouts
) -> None:
    with redis_cluster() as cluster:
        load_folder(tables, schema, cluster.url)
        gone = cluster.nodes.index(cluster.owner(SCHEMAS))
        lost = belonging(cluster, layouts, gone)
        here = a_user_of(cluster, layouts, gone - 1)
        there = a_user_of(cluster, layouts, gone)
        assert 0 < len(lost) < len(IDS)

        async def work(reader: Any) -> None:
            whole = await reader.fetch(layouts, here, IDS, 2)
            assert (unknown(whole), whole.unread, len(whole.behaviours)) == (set(), 0, 5)
            listed = await reader.schemas()
            await asyncio.to_thread(cluster.nodes[gone].kill)
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
            await asyncio.to_thread(cluster.nodes[gone].start)
            await until(reader, lambda stored: stored.unread == 0)
            await asyncio.to_thread(load_folder, tables, schema, cluster.url)
            assert prices(await reader.fetch(layouts, here, IDS, 2)) == [float(i) for i in IDS]

        async def until(reader: Any, holds: Callable[[StoredRows], bool]) -> None:
            async with asyncio.timeout(20):
                while not holds(await reader.fetch(layouts, here, IDS, 2)):
                    await asyncio.sleep(0.02)

        reading(cluster.url, work)


def test_a_node_that_hangs_costs_no_more_than_the_timeout_and_its_rows_in_the_cache_do_not_count(
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
        async with asyncio.timeout(20):
            while unknown(await reader.fetch(layouts, here, IDS, 2)):
                await asyncio.sleep(0.02)
        kit.recovered("a cluster's node hanging, from when it goes on", goes_on)

    reading(cluster.url, work, timeout_ms=100)


def test_a_failover_is_followed_without_a_failed_ranking(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, tables: Path, schema: FeatureSchema, layouts: Layouts
) -> None:
    def degraded(user_id: str) -> set[str]:
        answer = server.rank(IDS, user_id=user_id)
        assert answer.status_code == 200, answer.text
        return set(answer.json()["degraded"])

    with redis_cluster() as cluster:
        load_folder(tables, schema, cluster.url)
        gone = cluster.nodes[0]
        there = a_user_of(cluster, layouts, 0)
        elsewhere = a_user_of(cluster, layouts, 1)
        event = {"user_id": there, "item_id": "1", "action": "click", "timestamp": NOW}
        with cluster.replica_of(gone), kit.serving(tmp_path, registry, cluster.url) as server:
            assert degraded(there) == degraded(elsewhere) == set()
            gone.kill()
            killed = time.monotonic()
            assert f"unknown_items:{len(belonging(cluster, layouts, 0))}" in degraded(elsewhere)
            assert "unknown_user" in degraded(there)
            assert f"store_unavailable:{len(belonging(cluster, layouts, 0))}" in degraded(elsewhere), (
                "rows that are not read are not merely unknown"
            )
            assert server.http.get("/readyz").status_code == 200
            assert (refused := server.http.post("/events", json={"events": [event]})).status_code == 503, refused.text
            kit.wait_until(lambda: degraded(there) == degraded(elsewhere) == set())
            kit.recovered("a cluster's primary killed (cluster-node-timeout 1 s), from its end", killed)
            kit.wait_until(lambda: server.http.post("/events", json={"events": [event]}).status_code == 200)
            assert "is away" in server.log_lines
            assert 'outcome="internal_error"' not in server.http.get("/metrics").text


def test_a_cluster_that_is_gone_is_a_store_that_is_down_until_it_is_back(
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
        async with asyncio.timeout(20):
            while True:
                try:
                    assert (await reader.fetch(layouts, "1", IDS, 2)).unread == 0
                    break
                except (StoreDown, AssertionError):
                    await asyncio.sleep(0.02)
        kit.recovered("a whole cluster gone, from when its nodes are back", back)

    with redis_cluster() as cluster:
        reading(cluster.url, work)


@pytest.mark.parametrize("reads_when_down", ["no", "yes"])
def test_half_a_cluster_gone_is_read_where_redis_allows_it(
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

        reading(cluster.url, work)


def test_one_redis_under_a_clusters_address_is_told(redis_server: EmbeddedRedis, layouts: Layouts) -> None:
    with pytest.raises(StoreDown, match=r"no node of a cluster that is set up: .*cluster support disabled"):
        reading(
            redis_server.url.replace("redis://", "redis+cluster://"), lambda reader: reader.fetch(layouts, "1", IDS, 2)
        )


def test_a_password_holds_for_every_node(layouts: Layouts) -> None:
    with redis_cluster("--user", "ranker", "on", ">hush:1", "~*", "&*", "+@all") as cluster:
        hosts = cluster.url.removeprefix("redis+cluster://")
        stored = reading(f"redis+cluster://ranker:hush%3A1@{hosts}", lambda reader: reader.fetch(layouts, "1", IDS, 2))
        assert (stored.unread, unknown(stored)) == (0, set(IDS))
        with pytest.raises(StoreDown, match="WRONGPASS"):
            reading(f"redis+cluster://ranker:wrong@{hosts}", lambda reader: reader.fetch(layouts, "1", IDS, 2))
