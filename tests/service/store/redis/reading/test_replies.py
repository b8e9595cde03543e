"""Tests invalid replies, as a broken proxy sends them: they mean that the store is down.

Only these replies are simulated, because a real Redis does not send them.
"""

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from wrong_redis import IDS, answering, encoded, row

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import StoreDown
from service.store.opening import open_store
from service.store.redis.keys import behaviours_key, item_key, user_key
from service.store.schemas import check_schema


@pytest.fixture(params=["redis://", "redis+cluster://"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[0, 1 << 20], ids=["no cache", "cache"])
def cache_bytes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


WRONG: dict[bytes, list[Any]] = {
    b"GET": [7, True, 1.5, [b"x"], {b"a": b"b"}],
    b"MGET": [None, 7, b"x", {b"a": b"b"}, [], [[b"x"]], [7], [b"x"] * 77],
    b"ZREVRANGEBYSCORE": [None, 7, b"x", {b"a": b"b"}, [7], [None], [[b"x"]], [b"x"] * 77],
    b"HGETALL": [None, 7, b"x", [b"x"], [1, 2], {b"a": 7}, {7: b"a"}, [[b"x", b"y"]]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
async def test_a_reply_of_another_type_or_length_is_a_store_that_is_down(
    name: bytes, value: Any, scheme: str, cache_bytes: int, layouts: Layouts
) -> None:
    wrong = [True]

    def answer(command: list[bytes]) -> bytes | None:
        return encoded(value) if command[0] == name and wrong[0] else None

    async def refused(store: Any) -> None:
        if name == b"HGETALL":
            with pytest.raises(StoreDown, match="HGETALL"):
                await store.schemas()
            assert not (await check_schema(store, layouts)).reachable
            return
        with pytest.raises(StoreDown, match=name.decode()):
            await store.fetch(layouts, "712", IDS, 2)
        if name == b"MGET":
            with pytest.raises(StoreDown, match="MGET"):
                await store.item_rows(layouts, IDS)

    async def recovered(store: Any) -> Any:
        for _ in range(50):
            try:
                stored = await store.fetch(layouts, "712", IDS, 2)
                if not stored.unread:
                    return stored
            except StoreDown:
                pass
            await asyncio.sleep(0.05)
        raise AssertionError("it did not come about")

    async with answering(answer, layouts) as place:
        store = open_store(scheme + place, 2000, cache_bytes)
        try:
            await refused(store)
            wrong[0] = False
            stored = await recovered(store)
            expected = layouts.item.rows(b"".join(row(layouts, i) for i in IDS))
            assert (stored.items.keys == expected["keys"]).all()
        finally:
            store.close()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_each_candidate_has_its_own_row_or_an_unknown_ones(
    seed: int, scheme: str, cache_bytes: int, layouts: Layouts
) -> None:
    chance = random.Random(seed)

    def anything(depth: int = 0) -> Any:
        plain = [None, 7, True, 1.5, b"", b"x" * 60, redis.ResponseError("WRONGTYPE no"), redis.ResponseError("OOM")]
        nested = [[anything(depth + 1) for _ in range(chance.randint(0, 4))]] if depth < 3 else []
        return chance.choice(plain + nested)

    def answer(command: list[bytes]) -> bytes | None:
        if chance.random() > 0.3 or command[0] == b"CLUSTER":
            return None
        if command[0] == b"MGET" and chance.random() < 0.5:
            rows: list[Any] = [row(layouts, key.decode().rpartition(":i:")[2]) for key in command[1:]]
            rows[chance.randrange(len(rows))] = anything()
            return encoded(rows[: chance.randint(0, len(rows))] if chance.random() < 0.5 else rows)
        return encoded(anything())

    read = 0
    async with answering(answer, layouts) as place:
        store: Any = open_store(scheme + place, 300, cache_bytes)
        for _ in range(150):
            ids = chance.sample(IDS, chance.randint(1, len(IDS)))
            try:
                stored = await store.fetch(layouts, "712", ids, 1)
                await check_schema(store, layouts)
            except StoreDown:
                await asyncio.sleep(0.002)
                continue
            read += 1
            for place_of, item_id in enumerate(ids):
                own = layouts.item.rows(row(layouts, item_id))["keys"][0]
                unknown = layouts.item.rows(layouts.unknown_row("item", item_id))["keys"][0]
                keys = stored.items.keys[place_of]
                assert (keys == own).all() or (keys == unknown).all()
        store.close()
    assert read > 5


async def test_a_push_that_cannot_be_read_empties_the_cache(layouts: Layouts) -> None:
    pushes = [[b"invalidate", 7], [b"invalidate"], [b"invalidate", [7, None]], [b"invalidate", None]]

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] == b"GET" and pushes:
            body = encoded(pushes.pop())
            return b">" + body[1:] + encoded(layouts.user.pack({"user_id": "712"}))
        return None

    async with answering(answer, layouts) as place:
        store: Any = open_store(f"redis://{place}", 2000, 1 << 20)
        for _ in range(4):
            before = store.caches.distinct()[0].changes if store.caches.distinct() else 0
            await store.fetch(layouts, "712", IDS, 2)
            assert store.caches.distinct()[0].changes > before
        store.close()


@pytest.fixture
def filled(store: redis.Redis, layouts: Layouts) -> Iterator[redis.Redis]:
    store.set(item_key(layouts.fingerprint, "a"), row(layouts, "a"))
    store.lpush(user_key(layouts.fingerprint, "bad"), "x")
    store.set(behaviours_key(layouts.fingerprint, "bad"), "x")
    store.lpush(item_key(layouts.fingerprint, "b"), "x")
    return store


async def test_keys_of_another_type_are_counted_and_fill_no_log(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "funnelrank.store"):
        store = open_store(redis_server.url, 2000, 1 << 20)
        for _ in range(100):
            bad = await store.fetch(layouts, "bad", ["a", "b"], 2)
            assert bad.corrupt == {"user": 1, "behaviour": 1}
            assert bad.items.states.tolist() == [0, 1]
            assert not (await store.fetch(layouts, "712", ["a"], 2)).corrupt
        store.close()
    assert len(caplog.records) == 1


async def test_a_store_that_comes_and_goes_with_every_request_fills_no_log(
    scheme: str, layouts: Layouts, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(command: list[bytes]) -> bytes | None:
        fails = failing[0] and command[0] in (b"GET", b"MGET")
        return encoded(redis.ResponseError("LOADING the dataset")) if fails else None

    failing = [False]

    with caplog.at_level(logging.INFO, "funnelrank.store"):
        async with answering(answer, layouts) as place:
            store = open_store(scheme + place, 2000)
            for turn in range(200):
                failing[0] = bool(turn % 2)
                try:
                    await store.fetch(layouts, "bad" if failing[0] else "712", IDS, 2)
                    assert not failing[0]
                except StoreDown:
                    assert failing[0]
            store.close()
    assert 1 <= len(caplog.records) <= 4
