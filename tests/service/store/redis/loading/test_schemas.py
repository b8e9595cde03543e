"""Tests a Redis with rows of two feature schemas: live writes keep both fresh until one is retired."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import redis

from features.layouts import Layouts
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.redis.loading.schemas import announce_schema, register_schema

NOW = int(time.time() * 1000)


def send(server: Any, *events: dict[str, Any]) -> Any:
    answer = server.http.post("/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def event(item_id: str, at: int, **more: Any) -> dict[str, Any]:
    return {"user_id": "712", "item_id": item_id, "action": "click", "timestamp": at} | more


def sequence(store: redis.Redis, layouts: Layouts) -> np.ndarray:
    """The stored behaviours, newest first."""
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(layouts.fingerprint, "712"), 0, -1)
    return layouts.behaviour.rows(b"".join(m[8:] for m in members))


def test_an_event_goes_to_every_schema_with_the_item_as_that_schema_has_it(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    old = {"item_id": "5", "tag": "x", "price": 2.5}
    new = {"item_id": "5", "tag": "x", "colour": "red"}
    both.set(item_key(layouts.fingerprint, "5"), layouts.item.pack(old))
    both.set(item_key(next_layouts.fingerprint, "5"), next_layouts.item.pack(new))
    assert send(server, event("5", NOW, scene=3)) == {"accepted": 1, "new": 1}
    for kind, item in ((layouts, old), (next_layouts, new)):
        assert kind.behaviour is not None
        assert sequence(both, kind).tobytes() == kind.behaviour.pack_event(kind.item.pack(item), "click", 3, NOW)


def test_an_event_counts_once_in_each_schema_whatever_the_other_had(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    both.hdel(SCHEMAS, next_layouts.fingerprint)
    send(server, event("5", NOW, event_id="e-1"))
    announce_schema(both, next_layouts.schema)
    assert send(server, event("5", NOW, event_id="e-1"), event("6", NOW + 1)) == {"accepted": 2, "new": 1}
    assert send(server, event("5", NOW, event_id="e-1"), event("6", NOW + 1)) == {"accepted": 2, "new": 0}
    for kind in (layouts, next_layouts):
        assert sequence(both, kind)["time"].tolist() == [NOW + 1, NOW]


def test_every_write_that_begins_after_a_schema_is_listed_goes_to_it(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    """A worker reads the list for each write, so no worker uses an old list."""
    for turn in range(10):
        both.hdel(SCHEMAS, next_layouts.fingerprint)
        both.delete(behaviours_key(next_layouts.fingerprint, "712"))
        send(server, event("5", NOW + turn))
        assert len(sequence(both, next_layouts)) == 0
        announce_schema(both, next_layouts.schema)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i, turn=turn: send(server, event(str(i), NOW + turn)), range(4)))
        assert len(sequence(both, next_layouts)) == 4


def test_values_go_to_the_schemas_that_have_the_feature_and_keep_what_was_there(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    put = lambda features: server.put("/features/users", {"users": [{"user_id": "712", "features": features}]})  # noqa: E731
    assert put({"gender": "f", "city": "Bern", "age": 30}).json() == {"written": 1}
    assert put({"age": 31}).json() == {"written": 1}
    assert put({"city": "Basel"}).json() == {"written": 1}
    assert both.get(user_key(layouts.fingerprint, "712")) == layouts.user.pack(
        {"user_id": "712", "gender": "f", "age": 31}
    )
    assert both.get(user_key(next_layouts.fingerprint, "712")) == next_layouts.user.pack(
        {"user_id": "712", "city": "Basel", "age": 31}
    )


def test_a_schema_without_any_of_the_features_gets_no_row(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    assert server.put("/features/items", {"items": [{"item_id": "9", "features": {"colour": "red"}}]}).json() == {
        "written": 1
    }
    assert both.get(item_key(layouts.fingerprint, "9")) is None
    assert both.get(item_key(next_layouts.fingerprint, "9")) == next_layouts.item.pack(
        {"item_id": "9", "colour": "red"}
    )


def test_a_feature_that_no_schema_has_or_one_will_not_take_writes_nothing(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    rows: list[dict[str, Any]] = [{"age": 3}, {"shoe": 4, "city": "Bern"}, {"age": "old"}, {"city": 1.5}]
    answer = server.put("/features/users", {"users": [{"user_id": str(i), "features": f} for i, f in enumerate(rows)]})
    assert answer.status_code == 422
    errors = {e["field"]: e["message"] for e in answer.json()["errors"]}
    assert list(errors) == ["users[1].features.shoe", "users[2].features.age", "users[3].features.city"]
    assert errors["users[1].features.shoe"] == "unknown feature; known: user_id, gender, interests, age, city"
    assert "another schema that Redis lists" in errors["users[3].features.city"]
    assert not both.keys(f"fr:{layouts.fingerprint}:u:*")
    assert not both.keys(f"fr:{next_layouts.fingerprint}:u:*")


def test_a_list_that_cannot_be_read_in_part_is_obeyed_in_the_rest(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts
) -> None:
    document: Any = both.hget(SCHEMAS, layouts.fingerprint)
    both.hset(SCHEMAS, mapping={"0" * 16: document, "1" * 16: "{", "2" * 16: '{"schema": {"item": 3}}'})
    assert send(server, event("5", NOW))["new"] == 1
    assert len(sequence(both, next_layouts)) == 1
    assert not both.keys("fr:0000000000000000:*")


def test_a_schema_whose_load_is_not_through_is_not_ranked_from(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts, kit: SimpleNamespace
) -> None:
    both.hdel(SCHEMAS, layouts.fingerprint)
    announce_schema(both, layouts.schema)
    register_schema(both, next_layouts.schema)
    kit.wait_until(lambda: all(server.rank(["1"]).status_code == 503 for _ in range(10)))
    register_schema(both, layouts.schema)
    kit.wait_until(lambda: all(server.rank(["1"]).status_code == 200 for _ in range(10)))
