"""Tests lifetimes: users and behaviours expire after a time of silence, which a load or an event begins anew."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import redis

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import NEVER, Lifetimes
from service.store.opening import open_writer
from service.store.redis.keys import behaviours_key, item_key, user_key
from service.store.redis.loading.load import load_folder

NOW_MS = 1_700_000_000_000
LIFETIMES = Lifetimes(user_ms=100_000_000, behaviours_ms=50_000_000)


def left(store: redis.Redis, layouts: Layouts, user_id: str = "712") -> tuple[int, int]:
    """The time in ms after which the user's row and sequence expire; -1: never, -2: there is none."""
    keys = (user_key(layouts.fingerprint, user_id), behaviours_key(layouts.fingerprint, user_id))
    return store.pttl(keys[0]), store.pttl(keys[1])  # type: ignore[return-value]


def event(layouts: Layouts, number: int) -> tuple[int, bytes]:
    assert layouts.behaviour is not None
    item = layouts.item.pack({"item_id": "5"})
    return NOW_MS, number.to_bytes(8, "big") + layouts.behaviour.pack_event(item, "click", 1, NOW_MS)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    users = {"user_id": [712, 9], "gender": ["f", None], "interests": [["a"], []], "age": [31, None]}
    behaviours = {"user_id": [712], "item_id": [5], "action": ["click"], "scene": [1], "time_ms": [NOW_MS]}
    pa.parquet.write_table(pa.table(users), folder / "users.parquet")
    pa.parquet.write_table(pa.table(behaviours), folder / "behaviours.parquet")
    return folder


async def test_writes_begin_the_time_of_silence_anew(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts
) -> None:
    writer = open_writer(redis_server.url, 5000, LIFETIMES)
    try:
        await writer.merge_rows(layouts, "user", {"712": {"age": 3}})
        await writer.merge_rows(layouts, "item", {"5": {"price": 3}})
        user, behaviours = left(store, layouts)
        assert (99_000_000 < user <= 100_000_000, behaviours) == (True, -2)
        assert store.pttl(item_key(layouts.fingerprint, "5")) == -1
        # An event keeps both, also when the sequence is full.
        for number in range(layouts.kept_behaviours + 2):
            store.pexpire(user_key(layouts.fingerprint, "712"), 1000)
            store.pexpire(behaviours_key(layouts.fingerprint, "712"), 1000)
            assert await writer.add_behaviours(layouts, {"712": [event(layouts, number)]}) in (0, 1)
            user, behaviours = left(store, layouts)
            assert 99_000_000 < user <= 100_000_000
            assert 49_000_000 < behaviours <= 50_000_000
        # An event of a user without a row makes none.
        await writer.add_behaviours(layouts, {"9": [event(layouts, 1)]})
        assert left(store, layouts, "9")[0] == -2
    finally:
        await writer.close()


async def test_a_silent_user_expires_and_one_with_events_stays(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, kit: SimpleNamespace
) -> None:
    writer = open_writer(redis_server.url, 5000, Lifetimes(3000, 3000))
    try:
        for user_id in ("712", "9"):
            await writer.merge_rows(layouts, "user", {user_id: {"age": 3}})
            await writer.add_behaviours(layouts, {user_id: [event(layouts, 1)]})
        number = 1
        while left(store, layouts, "9") != (-2, -2):
            number += 1
            await writer.add_behaviours(layouts, {"712": [event(layouts, number)]})
        assert min(left(store, layouts)) > 0
    finally:
        await writer.close()


async def test_without_lifetimes_nothing_expires_any_more(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts
) -> None:
    for lifetimes in (LIFETIMES, NEVER):
        writer = open_writer(redis_server.url, 5000, lifetimes)
        try:
            await writer.merge_rows(layouts, "user", {"712": {"age": 3}})
            await writer.add_behaviours(layouts, {"712": [event(layouts, 1)]})
        finally:
            await writer.close()
    assert left(store, layouts) == (-1, -1)


def test_a_load_gives_users_and_sequences_their_lifetimes(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, tables: Path
) -> None:
    load_folder(tables, layouts.schema, redis_server.url, lifetimes=LIFETIMES)
    user, behaviours = left(store, layouts)
    assert 99_000_000 < user <= 100_000_000
    assert 49_000_000 < behaviours <= 50_000_000
    rows = store.get(user_key(layouts.fingerprint, "712"))
    load_folder(tables, layouts.schema, redis_server.url)
    assert left(store, layouts) == (-1, -1)
    assert store.get(user_key(layouts.fingerprint, "712")) == rows


def test_the_service_uses_its_settings_and_warns_without_them(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    layouts: Layouts,
) -> None:
    def put(server: Any) -> None:
        body = {"users": [{"user_id": "712", "features": {"age": 3}}]}
        assert server.put("/features/users", body).status_code == 200

    with kit.serving(tmp_path, registry, redis_server.url, user_ttl_s=100, behaviour_ttl_s=50) as server:
        put(server)
        assert 0 < left(store, layouts)[0] <= 100_000
        assert "never expire" not in server.log_lines
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        put(server)
        assert left(store, layouts)[0] == -1
        assert "never expire" in server.log_lines
