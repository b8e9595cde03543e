"""Tests the counters in Redis: bounded, expiring, read in one round trip, on one Redis and on a cluster."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import redis
from counted_log import COUNTERS, MINUTE_MS, SCHEMA
from hiredis import ReplyError

from features import FeatureSchema
from features.layouts import Layouts
from service.ranking.inputs.counter_numbers import counter_numerics
from service.sample.embedded_redis import EmbeddedRedis
from service.store.counter_cache import CounterCache
from service.store.counters import CountedEvent, counter_writes
from service.store.opening import open_store, open_writer
from service.store.redis.keys import item_counters_key, scene_counters_key, user_counters_key
from service.store.redis.reading.counters import CounterReads
from service.store.redis.writing.counter_script import ADD_COUNTS, count_calls

NOW = 1_700_000_000_000
NAMES = [counter["name"] for counter in COUNTERS]
KEYS = {item_id: np.array([place, place % 3]) for place, item_id in enumerate("abcdefgh", 1)}
LAYOUTS = Layouts.of(FeatureSchema.model_validate(SCHEMA))


async def add(url: str, *events: CountedEvent) -> None:
    writer = open_writer(url, 5000)
    try:
        await writer.add_counts(LAYOUTS, counter_writes(LAYOUTS, events, KEYS))
    finally:
        await writer.close()


async def read(reader: Any, user: str, items: Sequence[str], at: int = NOW, scene: str | None = None) -> np.ndarray:
    """The counters of candidates, float32 `[C, K]`."""
    stored = await reader.fetch(LAYOUTS, user, list(items), 5, None, False, scene)
    assert stored.unread == 0
    assert not stored.corrupt
    keys = np.stack([KEYS[item] for item in items])
    return counter_numerics(LAYOUTS, stored.counters, keys, scene, at)


def clicks(n: int, user: str = "ada", item: str = "a", scene: str | None = None) -> list[CountedEvent]:
    return [CountedEvent(user, item, "click", scene, NOW - i) for i in range(n)]


async def test_each_key_has_its_own_counters(either_redis: str) -> None:
    await add(
        either_redis, *clicks(3), *clicks(2, "bob", "b", "home"), CountedEvent(None, "a", "impression", None, NOW)
    )
    reader = open_store(either_redis, 5000)
    try:
        ada = await read(reader, "ada", ["a", "b"], scene="home")
        assert ada[:, NAMES.index("user_clicks")].tolist() == [3, 3]
        assert ada[:, NAMES.index("item_rate")] == pytest.approx([4 / 21, 3 / 20])
        assert ada[:, NAMES.index("item_users")].tolist() == [1, 1]
        assert np.isnan((await read(reader, "ada", ["a"]))[0, NAMES.index("scene_rate")])
        bob = await read(reader, "bob", ["a"])
        assert bob[0, NAMES.index("user_clicks")] == 2
        nobody = await read(reader, "nobody", ["h"])
        assert nobody[0, NAMES.index("user_clicks")] == 0
        assert nobody[0, NAMES.index("item_rate")] == pytest.approx(1 / 20)
        assert np.isnan(nobody[0, NAMES.index("user_since_like")])
    finally:
        reader.close()


async def test_an_items_counters_are_cached_for_the_stated_time(either_redis: str) -> None:
    for ttl_ms, expected in ((60_000, [1, 1]), (0, [1, 2])):
        item = "c" if ttl_ms else "d"
        reader = open_store(either_redis, 5000, 1 << 20, ttl_ms)
        seen = []
        try:
            for _ in range(2):
                await add(either_redis, CountedEvent(f"u{len(seen)}", item, "click", None, NOW))
                numbers = await read(reader, item, [item])
                seen.append(numbers[0, NAMES.index("item_users")])
            assert seen == expected
            # The user's own counters are never cached.
            await add(either_redis, *clicks(1, item))
            assert (await read(reader, item, [item]))[0, NAMES.index("user_clicks")] == 1
        finally:
            reader.close()


async def test_a_key_is_bounded_and_expires(redis_server: EmbeddedRedis) -> None:
    """Whatever comes, a key has one cell per kind, and a cell has its fixed size."""
    fingerprint = LAYOUTS.fingerprint
    keys = {f"i{n}": np.array([n + 1, n + 1]) for n in range(200)}
    writer = open_writer(redis_server.url, 5000)
    try:
        for first in range(0, 4000, 200):
            events = [
                CountedEvent("many", f"i{n % 200}", "click", "home", NOW - n * MINUTE_MS)
                for n in range(first, first + 200)
            ]
            await writer.add_counts(LAYOUTS, counter_writes(LAYOUTS, events, keys))
    finally:
        await writer.close()
    with redis.Redis.from_url(redis_server.url) as client:
        cells: Any = client.hgetall(user_counters_key(fingerprint, "many"))
        # One cell of the user, and one for each of the 3 that the values of the shop share.
        assert len(cells) == 1 + 3
        sizes = {str(place): layout.entries * 8 for place, layout in enumerate(LAYOUTS.counters)}
        assert {len(cell) for cell in cells.values()} == {sizes["1"], sizes["2"]}
        assert {name.decode().partition(":")[0] for name in cells} == {"1", "2"}
        assert client.strlen(item_counters_key(fingerprint, "i0")) == sizes["0"]
        assert client.strlen(scene_counters_key(fingerprint, "home")) == sizes["3"]
        for place, key in (
            (0, item_counters_key(fingerprint, "i0")),
            (2, user_counters_key(fingerprint, "many")),
            (3, scene_counters_key(fingerprint, "home")),
        ):
            left: Any = client.pttl(key)
            assert 0 < left <= LAYOUTS.counters[place].keep_ms


async def test_a_foreign_value_under_the_key_is_replaced(redis_server: EmbeddedRedis) -> None:
    fingerprint = LAYOUTS.fingerprint
    with redis.Redis.from_url(redis_server.url) as client:
        client.set(user_counters_key(fingerprint, "odd"), "text")
        client.rpush(item_counters_key(fingerprint, "f"), "text")
        client.set(scene_counters_key(fingerprint, "odd"), "short")
        size = LAYOUTS.counters[2].entries * 8
        odd = {"2:x": bytes(size), "2:3": bytes(size), "1:0": bytes(size), "9": b"", "2:0": bytes(size)}
        client.hset(user_counters_key(fingerprint, "odder"), mapping=odd)
        reader = open_store(redis_server.url, 5000)
        try:
            stored = await reader.fetch(LAYOUTS, "odd", ["f"], 5, None, False, "odd")
            assert stored.corrupt == {"counter": 2}  # MGET gives nothing for a list
            stored = await reader.fetch(LAYOUTS, "odder", ["g"], 5)
            assert stored.corrupt == {"counter": 4}
            assert stored.counters is not None
            assert list(stored.counters.user or {}) == ["2:0"]
            await add(redis_server.url, *clicks(2, "odd", "f", "odd"))
            assert (await read(reader, "odd", ["f"], scene="odd"))[0, NAMES.index("user_clicks")] == 2
        finally:
            reader.close()


def script_work(client: redis.Redis, events: Sequence[CountedEvent]) -> tuple[int, int]:
    """The commands that the script runs for one user's events, and the bytes that it is sent."""
    client.flushall()
    writes = counter_writes(LAYOUTS, events, KEYS)
    calls = [call for call in count_calls(LAYOUTS, writes) if call[0].startswith(f"fr:{LAYOUTS.fingerprint}:cu:")]
    client.config_resetstat()
    for key, arguments in calls:
        client.eval(ADD_COUNTS, 1, key, *arguments)
    stats: Any = client.info("commandstats")
    names = ("type", "hget", "hset", "pexpire", "get", "set")
    commands = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)
    return commands, sum(len(part) for _, arguments in calls for part in arguments if isinstance(part, bytes))


def test_the_script_reads_and_writes_a_cell_once_however_many_events_there_are(redis_server: EmbeddedRedis) -> None:
    """The commands depend on the cells alone, and what is sent is bounded by the events' buckets."""

    def spread(n: int) -> list[CountedEvent]:
        return [CountedEvent("ada", "abcdefgh"[i % 8], "click", None, NOW - i * MINUTE_MS) for i in range(n)]

    with redis.Redis.from_url(redis_server.url) as client:
        one, sent = script_work(client, spread(400))
        two, twice = script_work(client, spread(800))
        assert one == two == 2 + 2 * (1 + 2)  # TYPE and PEXPIRE, then HGET and HSET of each cell
        assert twice / sent < 2.5
        same = [clicks(n) for n in (400, 800)]
        assert script_work(client, same[0])[0] == script_work(client, same[1])[0]


def test_counters_of_items_that_redis_refuses_to_read_are_unread() -> None:
    """One refusal stands for all items of its command. It used to end the ranking with an error."""
    for items in (["a"], ["a", "b", "c"]):
        reads = CounterReads(LAYOUTS, CounterCache(LAYOUTS, 0, 1.0), "ada", None, items)
        refusals: list[Any] = [ReplyError("NOPERM no rights") for _ in reads.together()]
        stored = reads.stored(refusals, {})
        assert stored.items == [None] * len(items)
        assert stored.unread == len(items) + 1, "the user's cells are unread too"
