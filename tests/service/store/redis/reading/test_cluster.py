"""Tests a Redis Cluster: it ranks as one Redis does, partly while a node is away, and fully again after a failover."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from cluster_tables import IDS, NOW, USERS, prices, reading, unknown, write_tables
from redis.crc import key_slot
from redis_cluster import RedisCluster, redis_cluster

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import StoreDown
from service.store.redis.inspect import shown
from service.store.redis.keys import item_key
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, cluster: RedisCluster) -> Iterator[Any]:
    """A service with two workers over that cluster."""
    folder = tmp_path_factory.mktemp("served")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", cluster.url, workers=2) as server:
        yield server


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
        shown_rows = {
            item["item_id"]: item["score"]
            for item in served.rank(IDS, user_id=USERS[0], timestamp=NOW + 10).json()["ranking"]
        }
        return tuple(shown_rows[i] for i in IDS)

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


async def test_a_changed_row_is_seen_by_the_very_next_ranking_whose_rows_are_all_in_the_cache(
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
        assert reader.caches.distinct()[0].hits > 100 * (len(IDS) - 3)
        return seen

    assert await reading(cluster.url, work) == [True] * 100


def test_a_cluster_can_be_inspected(cluster: RedisCluster, layouts: Layouts) -> None:
    for user in USERS[:4]:
        shown_rows, text = shown(cluster.url, "user", user)
        assert shown_rows
        assert f"age                     {int(user) - 680}" in text
        assert "5 behaviours, newest first" in text
    assert shown(cluster.url, "item", "unheard-of")[0] is False


async def test_a_slot_that_moves_is_followed_on_its_way_and_after(cluster: RedisCluster, layouts: Layouts) -> None:
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

    await reading(cluster.url, work)


async def test_one_redis_under_a_clusters_url_is_refused_by_name(redis_server: EmbeddedRedis, layouts: Layouts) -> None:
    with pytest.raises(StoreDown, match=r"is not a node of a configured cluster: .*cluster support disabled"):
        await reading(
            redis_server.url.replace("redis://", "redis+cluster://"), lambda reader: reader.fetch(layouts, "1", IDS, 2)
        )


async def test_a_password_holds_for_every_node(layouts: Layouts) -> None:
    with redis_cluster("--user", "ranker", "on", ">hush:1", "~*", "&*", "+@all") as cluster:
        hosts = cluster.url.removeprefix("redis+cluster://")
        stored = await reading(
            f"redis+cluster://ranker:hush%3A1@{hosts}", lambda reader: reader.fetch(layouts, "1", IDS, 2)
        )
        assert (stored.unread, unknown(stored)) == (0, set(IDS))
        with pytest.raises(StoreDown, match="WRONGPASS"):
            await reading(f"redis+cluster://ranker:wrong@{hosts}", lambda reader: reader.fetch(layouts, "1", IDS, 2))
