"""Tests which events of a user are kept: real ones whatever else arrives, in bounded time, with room for replays."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis

from features.layouts import Layouts
from features.times import LATEST_AHEAD_MS
from service.sample.embedded_redis import EmbeddedRedis
from service.store.opening import open_store, open_writer
from service.store.redis.keys import behaviours_key
from service.store.redis.writing.scripts import ADD_BEHAVIOURS, add_behaviours_arguments, behaviours_to_send

HOUR_MS = 3_600_000


@pytest.fixture
def now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def own_redis() -> Iterator[redis.Redis]:
    """A Redis that only this test uses, so that its counters are those of the test."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        yield client


def member(layouts: Layouts, event: int, time_ms: int) -> bytes:
    assert layouts.behaviour is not None
    item = layouts.item.pack({"item_id": str(event)})
    return event.to_bytes(8, "big") + layouts.behaviour.pack_event(item, "click", 1, time_ms)


async def add(url: str, layouts: Layouts, events: Sequence[tuple[int, int]], user: str = "712") -> int:
    """Write events `(number, time in ms)` as the service does; return how many were new."""
    writer = open_writer(url, 5000)
    try:
        return await writer.add_behaviours(layouts, {user: [(at, member(layouts, e, at)) for e, at in events]})
    finally:
        await writer.close()


async def read(url: str, layouts: Layouts, before: int | None = None, user: str = "712") -> list[int]:
    """The numbers of the events that a ranking reads, newest first."""
    reader = open_store(url, 5000)
    try:
        stored = await reader.fetch(layouts, user, ["1"], 5, before)
        return [int.from_bytes(each[:8], "big") for each in stored.behaviours]
    finally:
        reader.close()


def stored_items(store: redis.Redis, layouts: Layouts, user: str = "712") -> list[int]:
    members: Any = store.zrevrange(behaviours_key(layouts.fingerprint, user), 0, -1)
    return [int.from_bytes(each[:8], "big") for each in members]


async def test_a_real_event_is_kept_and_read_whatever_a_wrong_clock_has_sent(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    ahead = [(100 + i, now + LATEST_AHEAD_MS - i) for i in range(1000)]
    assert await add(redis_server.url, layouts, ahead) == layouts.kept_behaviours
    assert await add(redis_server.url, layouts, [(1, now - 10)]) == 1
    assert await read(redis_server.url, layouts) == [1]
    assert await add(redis_server.url, layouts, ahead[::-1]) == 0
    assert await read(redis_server.url, layouts) == [1]
    assert 1 in stored_items(store, layouts)
    assert len(stored_items(store, layouts)) == layouts.kept_behaviours + 1


async def test_what_lies_in_the_future_is_read_when_its_time_has_come(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    await add(redis_server.url, layouts, [(1, now - 5), (2, now + 1500)])
    assert await read(redis_server.url, layouts) == [1]
    time.sleep(1.6)
    assert await read(redis_server.url, layouts) == [2, 1]


async def test_an_event_that_is_too_old_to_be_kept_is_not_new(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    recent = [(i, now - 1000 + i) for i in range(layouts.kept_behaviours)]
    assert await add(redis_server.url, layouts, recent) == len(recent)
    old = (99, now - HOUR_MS)
    assert [await add(redis_server.url, layouts, [old]) for _ in range(3)] == [0, 0, 0]
    assert await add(redis_server.url, layouts, [old, (50, now - 1)]) == 1
    assert 99 not in stored_items(store, layouts)
    assert stored_items(store, layouts)[0] == 50


async def test_new_is_the_number_of_events_that_are_kept(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    batch = [(i, now - 5000 + i) for i in range(1000)]
    assert await add(redis_server.url, layouts, batch) == layouts.kept_behaviours
    assert stored_items(store, layouts) == list(range(999, 999 - layouts.kept_behaviours, -1))
    assert await add(redis_server.url, layouts, batch + batch) == 0


async def test_a_replay_as_of_a_moment_reads_what_was_read_then(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    limit = layouts.max_behaviours
    times = [now - HOUR_MS + i * 1000 for i in range(3 * limit)]
    seen_then = []
    for event, at in enumerate(times):
        seen_then.append(await read(redis_server.url, layouts, at))
        await add(redis_server.url, layouts, [(event, at)])
    for event, at in list(enumerate(times))[-limit:]:
        assert await read(redis_server.url, layouts, at) == seen_then[event]
        assert len(seen_then[event]) == limit


async def test_a_batch_keeps_the_place_of_an_event_that_comes_again_and_the_order_within_a_millisecond(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    at = now - 1000
    assert await add(redis_server.url, layouts, [(1, at), (2, at), (1, at), (3, at)]) == 3
    assert await add(redis_server.url, layouts, [(4, at), (2, at), (5, at + 1)]) == 2
    assert stored_items(store, layouts) == [5, 4, 3, 2, 1]


async def test_a_key_of_another_type_is_replaced_by_the_next_write(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    store.set(behaviours_key(layouts.fingerprint, "712"), "of somebody else")
    assert await add(redis_server.url, layouts, [(1, now - 5)]) == 1
    assert await read(redis_server.url, layouts) == [1]


async def test_the_script_is_sent_again_where_redis_has_forgotten_it(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    writer = open_writer(redis_server.url, 5000)
    counts = []
    for event in range(3):
        counts.append(await writer.add_behaviours(layouts, {"1": [(now, member(layouts, event, now))]}))
        await asyncio.to_thread(store.script_flush)
    await writer.close()
    assert counts == [1, 1, 1]


async def test_a_user_that_may_eval_and_load_no_script_writes_all_the_same(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, now: int
) -> None:
    allowed = (
        "~fr:* +eval +zadd +zrem +zrangebyscore +zcard +zcount +zrange +zremrangebyrank +unlink +ping +client +hello"
    )
    store.execute_command("ACL", "SETUSER", "sender", "on", ">hush", *allowed.split())
    url = redis_server.url.replace("redis://", "redis://sender:hush@")
    try:
        assert await add(url, layouts, [(1, now)]) == 1
        assert await add(url, layouts, [(i, now - i) for i in range(30)]) == layouts.kept_behaviours - 1
    finally:
        store.execute_command("ACL", "DELUSER", "sender")


def cpu_ms(client: redis.Redis) -> float:
    """The CPU time of Redis' main thread, which does not depend on other load."""
    of: Any = client.info("cpu")
    return float(of["used_cpu_user_main_thread"] + of["used_cpu_sys_main_thread"]) * 1000


def redis_work(client: redis.Redis, events: Sequence[tuple[int, bytes]], keep: int, now_ms: int) -> tuple[int, float]:
    """The commands that Redis runs for one write, and the CPU milliseconds that it takes."""
    arguments = add_behaviours_arguments(behaviours_to_send(events, keep, now_ms), keep, now_ms)
    client.flushall()
    client.config_resetstat()
    client.execute_command("EVAL", ADD_BEHAVIOURS, 2, "key", "row", *arguments)
    stats: Any = client.info("commandstats")
    commands = sum(of["calls"] for name, of in stats.items() if name.removeprefix("cmdstat_") != "config|resetstat")
    rounds = []
    for _ in range(5):
        client.flushall()
        started = cpu_ms(client)
        for key in range(10):
            client.execute_command("EVAL", ADD_BEHAVIOURS, 2, key, "row", *arguments)
        rounds.append((cpu_ms(client) - started) / 10)
    return commands, min(rounds)


@pytest.mark.parametrize("step_ms", [0, 1, 1000], ids=["one millisecond", "a millisecond apart", "a second apart"])
@pytest.mark.parametrize("keep", [100, 2000], ids=["50 behaviours", "1000 behaviours"])
def test_a_batch_costs_redis_no_more_than_its_size(own_redis: redis.Redis, now: int, step_ms: int, keep: int) -> None:
    """At the limits: 1,000 events of one user in one call, and the longest sequence of a schema."""
    events = [(now - 10_000_000 + i * step_ms, i.to_bytes(8, "big") + bytes(150)) for i in range(1000)]
    half_commands, half = redis_work(own_redis, events[:500], keep, now)
    commands, whole = redis_work(own_redis, events, keep, now)
    assert whole <= 10
    assert whole / half < 2.5
    assert commands / half_commands < 2.5
    assert commands < 20


async def test_a_thousand_users_in_one_call_cost_redis_a_bounded_time(
    own_redis: redis.Redis, layouts: Layouts, now: int
) -> None:
    port = own_redis.connection_pool.connection_kwargs["port"]
    rounds = []

    own_redis.flushall()

    writer = open_writer(f"redis://127.0.0.1:{port}/0", 5000)
    for turn in range(5):
        by_user = {str(u): [(now + turn, member(layouts, u, now + turn))] for u in range(1000)}
        started = cpu_ms(own_redis)
        assert await writer.add_behaviours(layouts, by_user) == 1000
        rounds.append(cpu_ms(own_redis) - started)
    await writer.close()
    print(f"1,000 users: {min(rounds):.1f} ms of Redis' CPU")
    assert min(rounds) <= 10
