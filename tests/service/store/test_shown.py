"""Tests the items that a user was shown: bounded, each counted once, read with the other rows, on one Redis and on a
cluster.
"""

from typing import Any

import numpy as np
import redis

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.opening import open_store, open_writer
from service.store.redis.keys import shown_items_key
from service.store.redis.writing.scripts import ADD_SHOWN
from service.store.shown import (
    ENTRY_BYTES,
    KEPT_ENTRIES,
    Exposures,
    ShownItem,
    exposures_of,
    packed_by_user,
    shown_key,
)

NOW = 1_700_000_000_000
DAY_MS = 86_400_000


async def add(url: str, *items: ShownItem) -> int:
    writer = open_writer(url, 5000)
    try:
        return await writer.add_shown(packed_by_user(items), DAY_MS)
    finally:
        await writer.close()


async def read(url: str, layouts: Layouts, user: str, shown: bool = True) -> bytes | None:
    reader = open_store(url, 5000)
    try:
        stored = await reader.fetch(layouts, user, ["1", "2"], 5, shown=shown)
        assert stored.unread == 0
        return stored.shown
    finally:
        reader.close()


async def test_every_item_counts_once_for_one_time_and_users_do_not_mix(either_redis: str, layouts: Layouts) -> None:
    items = [ShownItem("ada", "7", NOW, False), ShownItem("ada", "7", NOW, True), ShownItem("bob", "8", NOW, True)]
    assert await add(either_redis, *items, items[0]) == 3
    assert await add(either_redis, *items, ShownItem("ada", "7", NOW + 1, False)) == 1
    exposures = exposures_of(await read(either_redis, layouts, "ada"))
    assert exposures.keys.tolist() == [shown_key("7")] * 3
    assert exposures.times_ms.tolist() == [NOW, NOW, NOW + 1]
    assert exposures.acted.tolist() == [False, True, False]
    assert exposures.within(NOW + 1, NOW + 9).tolist() == [shown_key("7")]
    assert len(exposures.within(NOW, NOW, shown_only=True)) == 1
    assert exposures_of(await read(either_redis, layouts, "bob")).keys.tolist() == [shown_key("8")]
    assert await read(either_redis, layouts, "nobody") is None
    assert await read(either_redis, layouts, "ada", shown=False) is None


async def test_the_newest_arrivals_are_kept(either_redis: str, layouts: Layouts) -> None:
    for first in range(0, 1600, 400):
        await add(either_redis, *(ShownItem("many", str(i), NOW + i, False) for i in range(first, first + 400)))
    packed = await read(either_redis, layouts, "many")
    assert packed is not None
    assert len(packed) == KEPT_ENTRIES * ENTRY_BYTES
    assert exposures_of(packed).keys.tolist() == [shown_key(str(i)) for i in range(600, 1600)]


async def test_an_entry_whose_bytes_lie_across_two_others_is_new(redis_server: EmbeddedRedis, layouts: Layouts) -> None:
    """The script searches bytes, and must ignore a match that begins inside another entry."""
    entry = next(iter(packed_by_user([ShownItem("u", "7", NOW, False)]).values()))
    across = b"." * 8 + entry + b"." * 8
    with redis.Redis.from_url(redis_server.url) as client:
        client.set(shown_items_key("across"), across)
        assert await add(redis_server.url, ShownItem("across", "7", NOW, False)) == 1
        value: Any = client.get(shown_items_key("across"))
        assert value == across + entry
        client.delete(shown_items_key("across"))


def test_no_entries_are_no_exposures() -> None:
    for empty in (Exposures(), exposures_of(None), exposures_of(b"")):
        assert empty.within(0, NOW).tolist() == []
        assert np.isin(np.array([1, 2]), empty.within(0, NOW)).tolist() == [False, False]


def redis_work(client: redis.Redis, count: int) -> tuple[int, float]:
    """The commands of one write of `count` entries that exist, and the CPU milliseconds that it takes.

    All are of one item, at as many times, so that they begin with the same bytes.
    """
    items = [ShownItem("ada", "7", NOW + i, False) for i in range(count)]
    arguments = (KEPT_ENTRIES * ENTRY_BYTES, DAY_MS, packed_by_user(items)["ada"])
    assert client.execute_command("EVAL", ADD_SHOWN, 1, "key", *arguments) == count
    client.config_resetstat()
    rounds = []
    for _ in range(5):
        started = cpu_ms(client)
        for _ in range(10):
            assert client.execute_command("EVAL", ADD_SHOWN, 1, "key", *arguments) == 0
        rounds.append((cpu_ms(client) - started) / 10)
    stats: Any = client.info("commandstats")
    commands = sum(stats[f"cmdstat_{name}"]["calls"] for name in ("get", "set")) // 50
    client.flushall()
    return commands, min(rounds)


def test_entries_that_exist_cost_redis_no_more_than_their_number() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        half_commands, half = redis_work(client, KEPT_ENTRIES // 2)
        commands, whole = redis_work(client, KEPT_ENTRIES)
    assert commands == half_commands == 2
    assert whole / half < 2.5
    assert whole <= 5


def cpu_ms(client: redis.Redis) -> float:
    """The CPU time of Redis' main thread, which does not depend on other load."""
    of: Any = client.info("cpu")
    return float(of["used_cpu_user_main_thread"] + of["used_cpu_sys_main_thread"]) * 1000
