"""Tests `/events` and `/features/*`: checked, merged, bounded, and seen by the next ranking."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.inspect import decoded
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.redis.loading.schemas import register_schema

NOW = int(time.time() * 1000)


def event(item_id: str, at: int, user_id: str = "712", action: Any = "click", **more: Any) -> dict[str, Any]:
    return {"user_id": user_id, "item_id": item_id, "action": action, "timestamp": at} | more


def send(server: Any, *events: dict[str, Any]) -> Any:
    answer = server.http.post("/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def sequence(store: redis.Redis, layouts: Layouts, user_id: str = "712") -> np.ndarray:
    """The stored behaviours, newest first."""
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(layouts.fingerprint, user_id), 0, -1)
    return layouts.behaviour.rows(b"".join(m[8:] for m in members))


def score_of(server: Any, item_id: str = "1") -> float:
    return float(server.rank([item_id]).json()["ranking"][0]["score"])


def test_the_next_ranking_of_the_user_sees_an_event_on_any_worker(server: Any, store: redis.Redis) -> None:
    before = score_of(server)
    assert send(server, event("5", NOW)) == {"accepted": 1, "new": 1}
    with ThreadPoolExecutor(4) as pool:
        after = set(pool.map(lambda _: score_of(server), range(20)))
    assert len(after) == 1
    assert after != {before}


def test_a_ranking_as_of_a_moment_sees_only_what_came_before_it(server: Any, store: redis.Redis) -> None:
    def score_at(moment: int | None) -> float:
        more = {} if moment is None else {"timestamp": moment}
        return float(server.rank(["1"], **more).json()["ranking"][0]["score"])

    empty = score_at(NOW)
    send(server, event("5", NOW))
    first = score_at(NOW + 1)
    send(server, event("6", NOW + 1000))
    assert score_at(NOW) == empty
    assert score_at(NOW + 1) == score_at(NOW + 1000) == first
    assert score_at(NOW + 1001) == score_at(None)
    assert len({empty, first, score_at(None)}) == 3


def test_a_behaviour_carries_its_items_features(server: Any, store: redis.Redis, layouts: Layouts) -> None:
    store.set(item_key(layouts.fingerprint, "5"), layouts.item.pack({"item_id": "5", "tag": "x", "price": 2.5}))
    send(server, event("5", NOW, scene=3))
    assert layouts.behaviour is not None
    expected = layouts.behaviour.pack_event(
        layouts.item.pack({"item_id": "5", "tag": "x", "price": 2.5}), "click", 3, NOW
    )
    assert sequence(store, layouts).tobytes() == expected


def test_an_event_that_is_sent_twice_counts_once(server: Any, store: redis.Redis, layouts: Layouts) -> None:
    one = event("5", NOW)
    with_id = event("6", NOW, event_id="e-1")
    assert send(server, one, with_id)["new"] == 2
    assert send(server, one, with_id, one) == {"accepted": 3, "new": 0}
    assert send(server, event("5", NOW, action="like"), event("5", NOW + 1))["new"] == 2
    assert len(sequence(store, layouts)) == 4


def test_events_out_of_order_are_put_in_order_and_the_oldest_go(
    server: Any, store: redis.Redis, layouts: Layouts
) -> None:
    """A ranking reads five behaviours; five more are kept for replays."""
    for offset in (3, 9, 1, 7, 5, 8, 2, 14, 12, 11, 13, 10):
        send(server, event("5", NOW + offset))
    assert sequence(store, layouts)["time"].tolist() == [NOW + o for o in (14, 13, 12, 11, 10, 9, 8, 7, 5, 3)]


def test_events_of_one_millisecond_keep_the_order_in_which_they_came(
    server: Any, store: redis.Redis, layouts: Layouts
) -> None:
    send(server, event("a", NOW + 1), event("z", NOW), event("c", NOW))
    send(server, event("b", NOW), event("z", NOW), event("d", NOW, event_id="e-1"))
    keys = [int(layouts.item.rows(layouts.item.pack({"item_id": i}))["keys"][0][0]) for i in ("a", "d", "b", "c", "z")]
    assert sequence(store, layouts)["keys"][:, 0].tolist() == keys
    assert sequence(store, layouts)["time"].tolist() == [NOW + 1] + [NOW] * 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"timestamp": NOW // 1000}, "events[1].timestamp"),
        ({"timestamp": NOW + 10**9}, "events[1].timestamp"),
        ({"timestamp": "yesterday"}, "events[1].timestamp"),
        ({"action": 1.5}, "events[1].action"),
        ({"action": None}, "events[1].action"),
        ({"action": "x" * 600}, "events[1].action"),
        ({"item_id": ""}, "events[1].item_id"),
        ({"user_id": 7}, "events[1].user_id"),
        ({"weight": 7}, "events[1].weight"),
    ],
)
def test_one_bad_event_writes_nothing(
    server: Any, store: redis.Redis, layouts: Layouts, change: dict[str, Any], field: str
) -> None:
    answer = server.http.post("/events", json={"events": [event("5", NOW), event("5", NOW) | change]})
    assert answer.status_code == 422
    assert [e["field"] for e in answer.json()["errors"]] == [field]
    assert len(sequence(store, layouts)) == 0


def test_empty_and_oversized_batches_are_refused(server: Any) -> None:
    for batch in ([], [event("5", NOW)] * 1001):
        assert server.http.post("/events", json={"events": batch}).json()["errors"][0]["field"] == "events"


def test_feature_values_are_merged_and_null_makes_missing(server: Any, store: redis.Redis, layouts: Layouts) -> None:
    put = lambda features: server.put("/features/items", {"items": [{"item_id": "9", "features": features}]})  # noqa: E731
    assert put({"tag": "a", "price": 3.5, "topics": ["x", 2]}).json() == {"written": 1}
    assert put({"price": None, "quality": 1}).status_code == 200
    row = store.get(item_key(layouts.fingerprint, "9"))
    assert row == layouts.item.pack({"item_id": "9", "tag": "a", "topics": ["x", 2], "quality": 1})


def test_the_next_ranking_sees_a_changed_user(server: Any, store: redis.Redis) -> None:
    before = server.rank(["1"]).json()
    assert "unknown_user" in before["degraded"]
    assert server.put("/features/users", {"users": [{"user_id": "712", "features": {"age": 44}}]}).status_code == 200
    after = server.rank(["1"]).json()
    assert "unknown_user" not in after["degraded"]
    assert after["ranking"][0]["score"] != before["ranking"][0]["score"]


def test_one_bad_value_writes_nothing_and_is_reported_by_place(
    server: Any, store: redis.Redis, layouts: Layouts
) -> None:
    users = [{"user_id": str(i), "features": {"age": 1}} for i in range(5)]
    users[3]["features"] = {"age": "old", "shoe": 3}
    users[4]["features"] = {"shoe": 3}
    answer = server.put("/features/users", {"users": users})
    assert answer.status_code == 422
    assert [e["field"] for e in answer.json()["errors"]] == ["users[3].features.age", "users[4].features.shoe"]
    assert store.get(user_key(layouts.fingerprint, "0")) is None


def test_updates_at_once_lose_no_value(server: Any, store: redis.Redis, layouts: Layouts) -> None:
    values = [{"tag": "a"}, {"topics": ["b"]}, {"price": 1}, {"quality": 2}] * 5
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda v: server.put("/features/items", {"items": [{"item_id": "9", "features": v}]}), values)
        )
    assert {a.status_code for a in answers} == {200}
    row: Any = store.get(item_key(layouts.fingerprint, "9"))
    assert "missing" not in decoded(layouts.item, layouts.item.rows(row)[0]).values()


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"Authorization": "Basic x"}, 401), ({"Authorization": "Bearer wrong"}, 401)]
)
def test_operators_calls_want_the_token(server: Any, headers: dict[str, str], status: int) -> None:
    for path in ("/features/items", "/features/users", "/models/rollout"):
        answer = server.http.put(path, json={}, headers=headers)
        assert answer.status_code == status
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_store_of_another_schema_is_refused_with_both_named(
    server: Any, store: redis.Redis, schema: Any, redis_server: EmbeddedRedis, kit: SimpleNamespace
) -> None:
    store.hset(SCHEMAS, "0123456789abcdef", '{"schema": {"user": [1], "item": [1, 2]}}')

    def refused() -> bool:
        return bool(server.rank(["1"]).status_code == 503)

    kit.wait_until(refused)
    problem = server.rank(["1"]).json()
    if problem["code"] == "schema_not_loaded":  # the other worker may be a poll behind
        assert "0123456789abcdef (1 user and 2 item features)" in problem["detail"]
        assert schema.fingerprint in problem["detail"]
        assert "python -m service load" in problem["detail"]
    assert server.http.get("/readyz").status_code == 503
    register_schema(store, schema)
    kit.wait_until(
        lambda: all(server.rank(["1"]).status_code == 200 for _ in range(10)),
        recovery="Redis of another schema, from when it is loaded",
    )
    assert server.http.get("/readyz").status_code == 200
