"""Tests reads from the replicas of one Redis: within the bound, and from the primary where no replica keeps it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis_cluster import wait_for
from redis_proxy import RedisProxy
from redis_rights import rights

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import StoredRows
from service.store.opening import open_store
from service.store.redis.keys import behaviours_key, item_key, user_key

LAG_MS = 400
# For tests in which replicas have to be read, however long a busy machine stops.
LONG_LAG_MS = 8_000
IDS = [str(i) for i in range(20)]


class Primary(SimpleNamespace):
    """A primary with two replicas, all real processes, and the proxy between them."""

    node: EmbeddedRedis
    replicas: list[EmbeddedRedis]
    proxy: RedisProxy

    def client(self, of: EmbeddedRedis | None = None) -> redis.Redis:
        return redis.Redis(port=(of or self.node).port, socket_timeout=10)

    def write_price(self, layouts: Layouts, price: float, replicas: int = 0) -> None:
        """Write a price of all items, and wait until so many replicas have it."""
        with self.client() as client:
            for item_id in IDS:
                row = layouts.item.pack({"item_id": item_id, "price": price})
                client.set(item_key(layouts.fingerprint, item_id), row)
            assert client.wait(replicas, 10_000) >= replicas

    def reads_of(self, node: EmbeddedRedis) -> int:
        """How many rows of users a node was asked for."""
        with self.client(node) as client:
            return int(client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"])


def follows(node: EmbeddedRedis) -> bool:
    with redis.Redis(port=node.port) as client:
        return client.info("replication").get("master_link_status") == "up"


@contextmanager
def replicated() -> Iterator[Primary]:
    """A primary whose two replicas get its writes through a proxy."""
    with ExitStack() as stack:
        node = stack.enter_context(EmbeddedRedis("--repl-diskless-sync-delay", "0"))
        proxy = stack.enter_context(RedisProxy(node.port).running())
        of_node = ("--replicaof", "127.0.0.1", str(proxy.port))
        replicas = [stack.enter_context(EmbeddedRedis(*of_node)) for _ in range(2)]
        wait_for(lambda: all(map(follows, replicas)))
        yield Primary(node=node, replicas=replicas, proxy=proxy)


@pytest.fixture(scope="module")
def started() -> Iterator[Primary]:
    with replicated() as made:
        yield made


@pytest.fixture
def primary(started: Primary, layouts: Layouts) -> Primary:
    fill(started, layouts)
    return started


def fill(started: Primary, layouts: Layouts) -> None:
    """Items of price 1, a user and one behaviour, in all three processes."""
    with started.client() as client:
        client.flushall()
        client.set(user_key(layouts.fingerprint, "7"), layouts.user.pack({"user_id": "7", "age": 30}))
        assert layouts.behaviour is not None
        member = bytes(8) + layouts.behaviour.pack_event(layouts.item.pack({"item_id": "1"}), "click", 1, 1_000)
        client.zadd(behaviours_key(layouts.fingerprint, "7"), {member: 1_000})
        started.write_price(layouts, 1)
        assert client.wait(2, 10_000) == 2


@asynccontextmanager
async def reading(
    url: str, layouts: Layouts, cache_bytes: int = 0, replicas: bool = True, lag_ms: int = LAG_MS
) -> AsyncIterator[Any]:
    reader: Any = open_store(url, 2000, cache_bytes, replica_lag_ms=lag_ms)
    try:
        await until(reader, layouts, lambda: reader._replicas.reads_replica is replicas)
        yield reader
    finally:
        reader.close()


async def until(reader: Any, layouts: Layouts, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            await reader.fetch(layouts, "7", IDS, 2)
            if holds():
                return
            await asyncio.sleep(0.01)


def price_of(stored: StoredRows) -> float:
    (price,) = {float(number) for number in stored.items.numerics[:, 0]}
    return price


async def test_rows_are_read_from_a_replica_and_the_primary_is_left_alone(primary: Primary, layouts: Layouts) -> None:
    async with reading(primary.node.url, layouts, lag_ms=LONG_LAG_MS) as reader:
        reader.cache_counts()
        before = primary.reads_of(primary.node)
        for _ in range(50):
            stored = await reader.fetch(layouts, "7", IDS, 2)
            assert (stored.user is not None, len(stored.behaviours), price_of(stored)) == (True, 1, 1.0)
        assert primary.reads_of(primary.node) == before
        counts = reader.cache_counts()
        assert (counts["replica_reads"], counts["replica_fallbacks"]) == (50, 0)
        assert 0 <= counts["replica_staleness_ms"] < LONG_LAG_MS


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_write_is_read_within_the_bound(primary: Primary, layouts: Layouts, cache_bytes: int) -> None:
    async with reading(primary.node.url, layouts, cache_bytes) as reader:
        for price in range(2, 6):
            await asyncio.to_thread(primary.write_price, layouts, price)
            await asyncio.sleep(LAG_MS / 1000)
            for _ in range(3):
                assert price_of(await reader.fetch(layouts, "7", IDS, 2)) == price
        counts = reader.cache_counts()
        assert counts["replica_reads"] > 0
        assert (counts["hits"] > 0, counts["invalidations"] > 0) == (cache_bytes > 0, cache_bytes > 0)


# 4 s: replication has to begin, to lag and to catch up.
async def test_replicas_that_are_too_far_behind_are_not_read(layouts: Layouts) -> None:
    """They answer, and are connected with the primary, but get every write five bounds late."""
    with replicated() as primary:
        await asyncio.to_thread(fill, primary, layouts)
        primary.proxy.delay_s = 5 * LAG_MS / 1000
        async with reading(primary.node.url, layouts, 1 << 20) as reader:
            await asyncio.to_thread(primary.write_price, layouts, 2)
            await asyncio.sleep(LAG_MS / 1000)
            with primary.client(primary.replicas[0]) as client:
                late = client.get(item_key(layouts.fingerprint, IDS[0]))
            assert late == layouts.item.pack({"item_id": IDS[0], "price": 1})
            assert price_of(await reader.fetch(layouts, "7", IDS, 2)) == 2
            assert not reader._replicas.reads_replica
            # They are read again when they have caught up.
            await until(reader, layouts, lambda: reader._replicas.reads_replica)
            assert price_of(await reader.fetch(layouts, "7", IDS, 2)) == 2


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_replicas_that_have_lost_the_primary_are_not_read(
    primary: Primary, layouts: Layouts, cache_bytes: int
) -> None:
    async with reading(primary.node.url, layouts, cache_bytes) as reader:
        try:
            for node in primary.replicas:
                with primary.client(node) as client:
                    client.replicaof("127.0.0.1", "1")  # nobody listens there
            await asyncio.to_thread(primary.write_price, layouts, 2)
            await asyncio.sleep(LAG_MS / 1000)
            assert price_of(await reader.fetch(layouts, "7", IDS, 2)) == 2
            assert not reader._replicas.reads_replica
            assert reader.cache_counts()["replica_staleness_ms"] == 0
        finally:
            for node in primary.replicas:
                with primary.client(node) as client:
                    client.replicaof("127.0.0.1", str(primary.node.port))
            await asyncio.to_thread(wait_for, lambda: all(map(follows, primary.replicas)))
        # They are read again when they have caught up.
        await until(reader, layouts, lambda: reader._replicas.reads_replica)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_replica_that_hangs_costs_no_row(primary: Primary, layouts: Layouts, cache_bytes: int) -> None:
    async with reading(primary.node.url, layouts, cache_bytes, lag_ms=LONG_LAG_MS) as reader:
        in_use = reader._replicas.reader._node[1]
        (hanging,) = [node for node in primary.replicas if node.port == in_use]
        os.kill(hanging.pid, signal.SIGSTOP)
        try:
            await asyncio.to_thread(primary.write_price, layouts, 3, replicas=1)
            for _ in range(3):
                stored = await reader.fetch(layouts, "7", IDS, 2)
                assert (stored.user is not None, len(stored.behaviours)) == (True, 1)
            assert price_of(stored) == 3
            assert reader.cache_counts()["replica_fallbacks"] == 1
            # The other replica takes its place.
            await until(reader, layouts, lambda: reader._replicas.reads_replica)
            assert reader._replicas.reader._node[1] != in_use
        finally:
            os.kill(hanging.pid, signal.SIGCONT)


async def test_the_bound_is_told_from_writes_and_not_from_silence(primary: Primary, layouts: Layouts) -> None:
    """A primary without writes for longer than the bound has fresh replicas."""
    async with reading(primary.node.url, layouts) as reader:
        await asyncio.sleep(2 * LAG_MS / 1000)
        await until(reader, layouts, lambda: reader._replicas.reads_replica)


async def test_a_replica_that_has_lost_its_rows_is_not_read(layouts: Layouts) -> None:
    """It was started again, answers, and does not follow its primary yet; all that is within the bound."""
    with replicated() as primary:
        await asyncio.to_thread(fill, primary, layouts)
        async with reading(primary.node.url, layouts, lag_ms=60_000) as reader:
            wire = reader._replicas.reader
            (lost,) = [node for node in primary.replicas if node.port == wire._node[1]]
            lost.kill()
            with EmbeddedRedis("--replicaof", "127.0.0.1", "1", port=lost.port):  # nobody listens there
                async with asyncio.timeout(10):
                    while wire.open:
                        await asyncio.sleep(0.01)
                    # As a request does that is under way.
                    await wire.connect(10)
                stored = await reader.fetch(layouts, "7", IDS, 2)
                assert (stored.user is not None, len(stored.behaviours), price_of(stored)) == (True, 1, 1.0)
                assert reader._replicas.reader is not wire


async def test_the_rights_that_the_docs_name_are_enough(primary: Primary, layouts: Layouts) -> None:
    allowed = [*rights("An ACL user that reads needs"), *rights("one that reads from replicas also")]
    for node in (primary.node, *primary.replicas):
        with primary.client(node) as client:
            client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">hush", *allowed)
    async with reading(primary.node.url.replace("redis://", "redis://limited:hush@"), layouts) as reader:
        stored = await reader.fetch(layouts, "7", IDS, 2)
        assert (stored.user is not None, price_of(stored)) == (True, 1)


def test_a_service_counts_what_it_reads_from_replicas(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, primary: Primary
) -> None:
    def metric(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"funnelrank_{name} ")))

    with kit.serving(tmp_path, registry, primary.node.url, redis_replica_lag_ms=LONG_LAG_MS) as server:
        kit.wait_until(lambda: server.rank(IDS, user_id="7").status_code == 200 and metric("replica_reads_total") > 0)
        assert metric("replica_staleness_seconds") < LONG_LAG_MS / 1000
        assert metric("replica_fallbacks_total") == 0
        assert server.rank(IDS, user_id="7").json()["degraded"] == []


async def test_a_redis_without_replicas_is_read_as_ever(redis_server: EmbeddedRedis, layouts: Layouts) -> None:
    async with reading(redis_server.url, layouts, replicas=False) as reader:
        assert len((await reader.fetch(layouts, "7", IDS, 2)).items.states) == len(IDS)
        assert reader.cache_counts()["replica_reads"] == 0
