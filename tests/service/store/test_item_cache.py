"""Tests the item cache: a ranking reads the same rows as Redis has, at once and in bounded memory."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store import item_cache
from service.store.base import StoredRows
from service.store.item_cache import ItemCache
from service.store.item_rows import CORRUPT, KNOWN, UNKNOWN, rows_from_store
from service.store.opening import open_store
from service.store.redis.keys import item_key

MIB = 1 << 20
IDS = [str(i) for i in range(100)]


def packed(layouts: Layouts, price: float) -> bytes:
    return layouts.item.pack({"tag": "a", "price": price})


def prices(stored: StoredRows) -> list[float]:
    return [float(p) for p in stored.items.numerics[:, 0]]


@pytest.fixture
def filled(store: redis.Redis, layouts: Layouts) -> redis.Redis:
    """Item `i` costs `i`."""
    store.mset({item_key(layouts.fingerprint, i): packed(layouts, float(i)) for i in IDS})
    return store


async def with_reader(
    url: str, work: Callable[[Any], Awaitable[Any]], cache_bytes: int = MIB, ttl_ms: int = 60_000
) -> Any:
    reader = open_store(url, 2000, cache_bytes, ttl_ms)
    try:
        return await work(reader)
    finally:
        reader.close()


async def test_a_row_is_read_once_and_equals_what_redis_holds(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    async def work(reader: Any) -> tuple[StoredRows, StoredRows, ItemCache]:
        return (
            await reader.fetch(layouts, "1", IDS, 2),
            await reader.fetch(layouts, "1", IDS[::-1], 2),
            reader.caches.distinct()[0],
        )

    cold, warm, cache = await with_reader(redis_server.url, work)
    assert prices(cold) == [float(i) for i in IDS]
    assert prices(warm) == [float(i) for i in IDS[::-1]]
    assert (cold.items.keys == warm.items.keys[::-1]).all()
    assert (cache.hits, cache.misses, len(cache)) == (100, 100, 100)


async def test_a_changed_row_is_seen_by_the_very_next_ranking(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    async def work(reader: Any) -> list[list[float]]:
        seen = []
        for price in range(1000, 1200):
            await asyncio.to_thread(filled.set, item_key(layouts.fingerprint, "3"), packed(layouts, price))
            seen.append(prices(await reader.fetch(layouts, "1", ["1", "2", "3"], 2)))
        return seen

    assert await with_reader(redis_server.url, work) == [[1.0, 2.0, float(price)] for price in range(1000, 1200)]


async def test_an_unknown_item_is_remembered_as_such_until_it_is_written(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    async def work(reader: Any) -> list[StoredRows]:
        replies = [await reader.fetch(layouts, "1", ["1", "new"], 2) for _ in range(2)]
        await asyncio.to_thread(filled.set, item_key(layouts.fingerprint, "new"), packed(layouts, 7))
        replies.append(await reader.fetch(layouts, "1", ["1", "new"], 2))
        await asyncio.to_thread(filled.delete, item_key(layouts.fingerprint, "new"))
        replies.append(await reader.fetch(layouts, "1", ["1", "new"], 2))
        assert reader.caches.distinct()[0].misses == 2 + 1 + 1
        return replies

    replies = await with_reader(redis_server.url, work)
    assert [f.items.states.tolist() for f in replies] == [
        [KNOWN, UNKNOWN],
        [KNOWN, UNKNOWN],
        [KNOWN, KNOWN],
        [KNOWN, UNKNOWN],
    ]
    assert replies[2].items.numerics[1, 0] == 7
    assert (replies[1].items.keys == replies[0].items.keys).all()


async def test_a_row_of_another_schema_counts_as_corrupt_also_from_the_cache(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    filled.set(item_key(layouts.fingerprint, "2"), b"a row of another length")

    async def work(reader: Any) -> list[StoredRows]:
        return [await reader.fetch(layouts, "1", ["1", "2"], 2) for _ in range(2)]

    for stored in await with_reader(redis_server.url, work):
        assert stored.corrupt == {"item": 1}
        assert stored.items.states.tolist() == [KNOWN, CORRUPT]


@pytest.mark.parametrize("rows", [0, 1, 7, 60])
async def test_a_cache_smaller_than_a_requests_candidates_answers_right(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts, rows: int
) -> None:
    limit = rows * ItemCache(layouts, MIB, 1).row_bytes
    rng = np.random.default_rng(rows)

    async def work(reader: Any) -> None:
        for _ in range(50):
            ids = [IDS[i] for i in rng.permutation(100)]
            several = await asyncio.gather(*(reader.fetch(layouts, "1", ids[n:], 2) for n in (0, 10, 90)))
            for n, stored in zip((0, 10, 90), several, strict=True):
                assert prices(stored) == [float(i) for i in ids[n:]]
            assert all(len(cache) <= rows and cache.bytes_used <= limit for cache in reader.caches.distinct())
        assert not rows or reader.caches.distinct()[0].evictions

    await with_reader(redis_server.url, work, cache_bytes=limit)


def test_rows_in_use_outlive_a_stream_of_new_ones(layouts: Layouts) -> None:
    cache = ItemCache(layouts, 320 * ItemCache(layouts, MIB, 1).row_bytes, 60)

    def keep(ids: list[str]) -> None:
        cache.keep(ids, rows_from_store(layouts, ids, [packed(layouts, float(i)) for i in ids]))

    keep(IDS)
    for start in range(1000, 20_000, 10):
        assert not cache.take(IDS).missing
        keep([str(i) for i in range(start, start + 10)])
        assert len(cache) <= 320


def test_ids_of_any_length_stay_within_the_bound(layouts: Layouts) -> None:
    cache = ItemCache(layouts, MIB, 60)
    ids = ["x" * 256, "short", "ü" * 100, "漢" * 60]
    cache.keep(ids, rows_from_store(layouts, ids, [packed(layouts, 1.0)] * 4))
    assert cache.take(ids).missing == [0, 2, 3]


async def test_a_flood_of_invalidations_takes_no_memory_and_is_counted(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    async def work(reader: Any) -> tuple[ItemCache, list[float]]:
        await reader.fetch(layouts, "1", IDS, 2)
        changes = {item_key(layouts.fingerprint, f"other-{i}"): b"x" for i in range(50_000)}
        await asyncio.to_thread(filled.mset, changes)
        await asyncio.to_thread(filled.set, item_key(layouts.fingerprint, "5"), packed(layouts, 55))
        return reader.caches.distinct()[0], prices(await reader.fetch(layouts, "1", IDS, 2))

    cache, seen = await with_reader(redis_server.url, work)
    assert seen == [55.0 if i == "5" else float(i) for i in IDS]
    assert cache.invalidations == 50_001
    assert len(cache) == 100


async def test_a_flushed_redis_empties_the_cache(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    async def work(reader: Any) -> StoredRows:
        await reader.fetch(layouts, "1", IDS, 2)
        await asyncio.to_thread(filled.flushall)
        return await reader.fetch(layouts, "1", IDS, 2)

    assert (await with_reader(redis_server.url, work)).items.states.tolist() == [UNKNOWN] * 100


async def test_after_a_killed_connection_nothing_old_is_ranked(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    def kill() -> None:
        filled.client_kill_filter(_type="normal", skipme=True)
        filled.set(item_key(layouts.fingerprint, "3"), packed(layouts, 33))

    async def work(reader: Any) -> tuple[list[float], list[float]]:
        await reader.fetch(layouts, "1", IDS, 2)
        await asyncio.to_thread(kill)
        async with asyncio.timeout(60):
            while reader._wire.open:
                await asyncio.sleep(0.01)
        after = prices(await reader.fetch(layouts, "1", ["3"], 2))
        await asyncio.to_thread(filled.set, item_key(layouts.fingerprint, "3"), packed(layouts, 34))
        return after, prices(await reader.fetch(layouts, "1", ["3"], 2))

    assert await with_reader(redis_server.url, work) == ([33.0], [34.0])


async def test_where_redis_cannot_tell_of_changes_a_row_stays_for_a_short_time_only(
    filled: redis.Redis, layouts: Layouts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(item_cache, "monotonic", lambda: now)
    with (
        EmbeddedRedis("--rename-command", "CLIENT", "") as server,
        redis.Redis(port=server.port, decode_responses=False) as client,
    ):
        key = item_key(layouts.fingerprint, "3")
        client.execute_command("SET", key, packed(layouts, 3))

        async def work(reader: Any) -> None:
            nonlocal now
            assert prices(await reader.fetch(layouts, "1", ["3"], 2)) == [3.0]
            await asyncio.to_thread(client.execute_command, "SET", key, packed(layouts, 4))
            now += 0.29
            assert prices(await reader.fetch(layouts, "1", ["3"], 2)) == [3.0]
            now += 0.02
            assert prices(await reader.fetch(layouts, "1", ["3"], 2)) == [4.0]

        await with_reader(server.url, work, ttl_ms=300)
    assert "Redis does not announce changes" in caplog.text


async def test_each_schema_has_a_cache_of_its_own_that_goes_with_its_last_bundle(
    filled: redis.Redis, redis_server: EmbeddedRedis, schema: FeatureSchema, kit: SimpleNamespace
) -> None:
    other = FeatureSchema.model_validate(
        kit.SCHEMA | {"item": [*kit.SCHEMA["item"], {"name": "colour", "type": "categorical"}]}
    )

    async def work(reader: Any) -> None:
        old = Layouts.of(schema)
        same = Layouts.of(schema)
        new = Layouts.of(other)
        for layouts in (old, same, new):
            await reader.fetch(layouts, "1", IDS, 2)
        assert len(reader.caches.distinct()) == 2
        del old
        assert len(reader.caches.distinct()) == 2
        del same
        layouts = new
        assert [cache.fingerprint for cache in reader.caches.distinct()] == [new.fingerprint]
        again = Layouts.of(schema)  # back to the first schema, on the same connection
        await reader.fetch(again, "1", ["3"], 2)
        await asyncio.to_thread(filled.set, item_key(again.fingerprint, "3"), packed(again, 33))
        assert prices(await reader.fetch(again, "1", ["3"], 2)) == [33.0]
        assert layouts is new

    await with_reader(redis_server.url, work)
