"""Tests `GET /store/...`: rows and behaviours decoded, hashes with their texts, refusals, and a store that is away."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import redis

from features.keys import key_of
from features.layouts import Layouts
from service.callers.document import CallerRole, add_caller
from service.sample.embedded_redis import EmbeddedRedis
from service.store.entity_rows import texts_of
from service.store.redis.inspect import shown
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.redis.loading.schemas import register_schema

TOKEN = {"Authorization": "Bearer secret"}
NOW = int(time.time() * 1000)
ITEMS = [{"item_id": "a/b 7", "features": {"tag": "39", "topics": ["12", "no number"], "price": 9.5}}]
USERS = [{"user_id": "712", "features": {"gender": "f", "age": 31}}]


def stored(server: Any, kind: str, entity_id: str, **options: Any) -> Any:
    answer = server.http.get(f"/store/{kind}/{quote(entity_id, safe='')}", params=options, headers=TOKEN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_item_is_shown_with_its_numbers_and_the_texts_that_can_be_found(server: Any, layouts: Layouts) -> None:
    assert server.put("/features/items", {"items": ITEMS}).status_code == 200
    body = stored(server, "items", "a/b 7")
    assert (body["entity"], body["id"], len(body["schemas"])) == ("item", "a/b 7", 1)
    schema = body["schemas"][0]
    assert (schema["fingerprint"], schema["in_use"], schema["behaviours"]) == (layouts.fingerprint, True, None)
    row = schema["row"]
    assert (row["bytes"], row["problem"]) == (layouts.item.dtype.itemsize, None)
    features = row["features"]
    assert list(features) == ["item_id", "tag", "topics", "price", "quality"]
    assert features["item_id"]["values"] == ["a/b 7"], "the id that was asked for"
    assert features["tag"] == {
        "keys": [f"{key_of('tag', '39') & (2**64 - 1):016x}"],
        "values": ["39"],
        "number": None,
    }
    assert features["topics"]["values"] == ["12", None], "a hash cannot be inverted"
    assert features["price"] == {"keys": [], "values": [], "number": 9.5}
    assert features["quality"] == {"keys": [], "values": [], "number": None}, "missing"


def test_a_users_behaviours_are_shown_newest_first(server: Any) -> None:
    assert server.put("/features/items", {"items": ITEMS}).status_code == 200
    assert server.put("/features/users", {"users": USERS}).status_code == 200
    events = [
        {"user_id": "712", "item_id": "a/b 7", "action": action, "scene": scene, "timestamp": NOW - 1000 * age}
        for age, (action, scene) in enumerate([("click", "shop"), ("unheard of", "shop"), ("like", None)])
    ]
    assert server.http.post("/events", json={"events": events}).json()["new"] == 3
    schema = stored(server, "users", "712", behaviours=2)["schemas"][0]
    assert schema["row"]["features"]["age"]["number"] == 31
    assert (schema["row"]["expires_in_s"], schema["row"]["written_s_ago"]) == (None, None)
    sequence = schema["behaviours"]
    assert (sequence["n"], sequence["read"], len(sequence["newest"])) == (3, 3, 2)
    newest = sequence["newest"]
    assert newest[0]["at"] == sequence["newest_at"]
    assert datetime.fromisoformat(newest[0]["at"]) == datetime.fromtimestamp(NOW / 1000, UTC)
    assert datetime.fromisoformat(sequence["oldest_at"]) == datetime.fromtimestamp((NOW - 2000) / 1000, UTC)
    assert [entry["action"]["values"] for entry in newest] == [["click"], [None]]
    assert [entry["scene"]["values"] for entry in newest] == [["shop"], ["shop"]]
    assert newest[0]["features"]["tag"]["values"] == ["39"]
    assert newest[0]["features"]["price"]["number"] == 9.5
    assert stored(server, "users", "712", behaviours=0)["schemas"][0]["behaviours"]["newest"] == []


def test_what_is_not_there_or_not_valid_is_refused(server: Any) -> None:
    http = server.http
    absent = http.get("/store/users/nobody", headers=TOKEN)
    assert (absent.status_code, absent.json()["code"]) == (404, "not_found")
    assert "'nobody'" in absent.json()["detail"]
    for path, field in (
        ("/store/users/712?behaviours=1001", "behaviours"),
        ("/store/users/712?behaviours=many", "behaviours"),
        (f"/store/items/{'x' * 257}", "item_id"),
        ("/store/items/", "item_id"),
    ):
        refused = http.get(path, headers=TOKEN)
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json"), path
        assert refused.json()["errors"][0]["field"] == field
    wrong_method = http.post("/store/items/7", headers=TOKEN)
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "GET")


def test_rows_are_for_known_callers_alone(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, server: Any, store: redis.Redis
) -> None:
    assert server.http.get("/store/users/712").status_code == 401, "without a callers document too"
    key = add_caller(registry, "console", CallerRole.READ, None, "test")
    with kit.serving(tmp_path, registry, redis_server.url) as running:
        read = running.http.get("/store/users/712", headers={"Authorization": f"Bearer {key}"})
        assert read.status_code == 404, "the role `read` is enough"
        assert running.http.get("/store/users/712").status_code == 401


def test_rows_that_expire_say_when_they_were_written_and_corrupt_ones_that_they_are(
    tmp_path: Path,
    registry: Path,
    kit: SimpleNamespace,
    layouts: Layouts,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    register_schema(store, layouts.schema)
    with kit.serving(tmp_path, registry, redis_server.url, user_ttl_s=1000, behaviour_ttl_s=500) as running:
        assert running.put("/features/users", {"users": USERS}).status_code == 200
        row = stored(running, "users", "712")["schemas"][0]["row"]
        assert 0 <= row["written_s_ago"] < 60
        assert row["written_s_ago"] + row["expires_in_s"] == pytest.approx(1000)
        store.set(item_key(layouts.fingerprint, "7"), b"short")
        store.zadd(behaviours_key(layouts.fingerprint, "712"), {b"12345678short": NOW})
        corrupt = stored(running, "items", "7")["schemas"][0]["row"]
        assert "corrupt" in corrupt["problem"]
        assert corrupt["features"] == {}
        broken = stored(running, "users", "712")["schemas"][0]["behaviours"]["newest"][0]
        assert "corrupt" in broken["problem"]
        assert broken["action"] is None


def test_what_another_program_wrote_is_corrupt_and_hides_nothing_else(
    server: Any, store: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    register_schema(store, layouts.schema)
    assert server.put("/features/users", {"users": USERS}).status_code == 200
    # Times that are no date.
    behaviours = behaviours_key(layouts.fingerprint, "712")
    assert layouts.behaviour is not None
    member = b"12345678" + bytes(layouts.behaviour.dtype.itemsize)
    for score in (1e15, 1e18, float("inf"), float("-inf"), -1e15, -1):
        store.delete(behaviours)
        store.zadd(behaviours, {member: score})
        sequence = stored(server, "users", "712")["schemas"][0]["behaviours"]
        assert (sequence["n"], sequence["newest_at"], sequence["newest"][0]["at"]) == (1, None, None), score
        assert "its time is no date" in shown(redis_server.url, "user", "712")[1]
    # Values of other types.
    store.delete(behaviours)
    store.set(behaviours, b"x")
    schema = stored(server, "users", "712")["schemas"][0]
    assert schema["row"]["features"]["age"]["number"] == 31
    assert "corrupt" in schema["behaviours"]["newest"][0]["problem"]
    store.delete(user_key(layouts.fingerprint, "712"))
    store.lpush(user_key(layouts.fingerprint, "712"), b"x")
    assert "corrupt" in stored(server, "users", "712")["schemas"][0]["row"]["problem"]
    # Entries of the list of schemas.
    entry = json.loads(store.hget(SCHEMAS, layouts.fingerprint) or b"")
    store.hset(SCHEMAS, layouts.fingerprint, json.dumps(entry | {"loaded_at": 7}))
    for document in (b"[]", b"{", b"{}", b"1", b"\xff", b"null", b'{"schema": {}}'):
        store.hset(SCHEMAS, "foreign", document)
        schemas = stored(server, "users", "712")["schemas"]
        assert [(one["fingerprint"], one["loaded_at"]) for one in schemas] == [(layouts.fingerprint, None)], document
        assert shown(redis_server.url, "user", "712")[0]


def test_a_store_that_is_away_is_said_so(tmp_path: Path, registry: Path, kit: SimpleNamespace) -> None:
    options = {"allow_degraded_ready": True}
    with EmbeddedRedis() as own, kit.serving(tmp_path, registry, own.url, **options) as running:
        own.kill()
        refused = running.http.get("/store/users/712", headers=TOKEN, timeout=timedelta(seconds=20).total_seconds())
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert refused.headers["retry-after"]


def test_texts_are_looked_for_among_known_ones_and_integers() -> None:
    keys = {text: key_of("tag", text) for text in ("39", "9999", "10000", "spring")}
    texts = texts_of("tag", keys.values(), ["spring"])
    assert texts == {keys["39"]: "39", keys["9999"]: "9999", keys["spring"]: "spring"}
    assert texts_of("tag", [], ["spring"]) == {}
