"""Tests over HTTP that events and impressions change the next ranking's counters, each once."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
from counted_log import SCHEMA

from features import FeatureSchema
from features.counters import ENTRY
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.inspect import shown
from service.store.redis.keys import item_counters_key, scene_counters_key, user_counters_key
from service.store.redis.loading.schemas import register_schema

NOW = int(time.time() * 1000)
LAYOUTS = Layouts.of(FeatureSchema.model_validate(SCHEMA))


@pytest.fixture(scope="module")
def counting(
    kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """A service whose model reads counters and no behaviours; items are cached for 50 ms."""
    folder: Path = tmp_path_factory.mktemp("counting")
    kit.publish(folder / "registry", "1", schema=SCHEMA)
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", redis_server.url, workers=1, item_cache_ttl_ms=50) as server:
        yield server


def rank(server: Any, user_id: str = "712", **more: Any) -> dict[str, Any]:
    body = {"user_id": user_id, "candidates": ["5", "6"]} | more
    answer = server.http.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item["score"] for item in answer.json()["ranking"]}


def send(server: Any, path: str, *elements: dict[str, Any]) -> Any:
    answer = server.http.post(f"/{path}", json={path: list(elements)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def click(item_id: str = "5", at: int = NOW, **more: Any) -> dict[str, Any]:
    return {"user_id": "712", "item_id": item_id, "action": "click", "timestamp": at} | more


def seen(request_id: str, *items: str, **more: Any) -> dict[str, Any]:
    positions = [{"item_id": item, "position": place} for place, item in enumerate(items, 1)]
    return {"request_id": request_id, "items": positions, "timestamp": NOW} | more


def total(store: redis.Redis, key: str, series: int, cell: str | None = None, layout: int = 0) -> int:
    """The sum of a series' buckets in a stored cell."""
    value: Any = store.get(key) if cell is None else store.hget(key, cell)
    entries = np.frombuffer(value, ENTRY)
    own = LAYOUTS.counters[layout].series[series]
    return int(entries["count"][own.start : own.start + own.size].sum())


def test_the_next_ranking_reads_what_a_user_did(counting: Any, store: redis.Redis) -> None:
    before = rank(counting)
    assert send(counting, "events", click()) == {"accepted": 1, "new": 1}
    time.sleep(0.06)  # the stated staleness of an item's counters
    after = rank(counting)
    assert after["5"] != before["5"]
    # The user's counters count for every candidate.
    assert after["6"] != before["6"]
    assert rank(counting, "another")["6"] == before["6"]


def test_events_and_impressions_that_are_sent_twice_count_once(counting: Any, store: redis.Redis) -> None:
    fingerprint = LAYOUTS.fingerprint
    user = user_counters_key(fingerprint, "712")
    for _ in range(2):
        send(counting, "events", click(), click(), click("5", event_id="e1"), click("5", NOW - 5, event_id="e1"))
        send(counting, "impressions", seen("r1", "5", "6", scene="home"), seen("r2", "5", user_id="712"))
    clicks = next(i for i, s in enumerate(LAYOUTS.counters[1].series) if s.actions == {"click"} and not s.kind)
    assert total(store, user, clicks, "1", 1) == 3
    shown = next(i for i, s in enumerate(LAYOUTS.counters[0].series) if s.actions == {"impression"})
    assert total(store, item_counters_key(fingerprint, "5"), shown) == 2
    assert total(store, item_counters_key(fingerprint, "6"), shown) == 1
    shown = next(i for i, s in enumerate(LAYOUTS.counters[3].series) if s.actions == {"impression"})
    assert total(store, scene_counters_key(fingerprint, "home"), shown, layout=3) == 2


def test_every_key_of_a_user_carries_his_id_as_its_hash_tag(counting: Any, store: redis.Redis) -> None:
    """An erasure of a user deletes the keys that end in it."""
    send(counting, "events", click())
    keys: Any = store.keys(f"fr:{LAYOUTS.fingerprint}:c*712*")
    assert keys == [user_counters_key(LAYOUTS.fingerprint, "712").encode()]


def test_inspect_shows_the_numbers_of_stored_cells(
    counting: Any, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    send(counting, "events", click("7", user_id="inspected"), click("8", user_id="inspected"))
    register_schema(store, LAYOUTS.schema)
    exists, text = shown(redis_server.url, "user", "inspected")
    assert exists
    assert user_counters_key(LAYOUTS.fingerprint, "inspected") in text
    by_user = {c.name for c in LAYOUTS.schema.counters if c.by == "user" and c.item_feature is None}
    assert by_user and all(re.search(rf"^    {name} +\S+$", text, re.MULTILINE) for name in by_user)
    _, text = shown(redis_server.url, "item", "7")
    by_item = [counter.name for counter in LAYOUTS.schema.counters if counter.by == "item"]
    assert by_item and all(re.search(rf"^    {name} +\S+$", text, re.MULTILINE) for name in by_item)
    assert shown(redis_server.url, "item", "never counted")[0] is False
