"""Tests a Redis with rows of two feature schemas: live writes keep both fresh until one is retired."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import SCHEMAS, behaviours_key, item_key, user_key
from service.store.redis.schemas import announce_schema, register_schema

NOW = int(time.time() * 1000)


@pytest.fixture(scope="module")
def next_layouts(kit: SimpleNamespace) -> Layouts:
    """The next schema: users have a city and no gender, items a colour, behaviours the colour and no price."""
    other = json.loads(json.dumps(kit.SCHEMA))
    other["user"][1] = {"name": "city", "type": "categorical"}
    other["item"].append({"name": "colour", "type": "categorical"})
    other["behaviour"]["item_features"] = ["item_id", "colour", "tag"]
    return Layouts.of(FeatureSchema.model_validate(other))


@pytest.fixture
def both(server: Any, store: redis.Redis, layouts: Layouts, next_layouts: Layouts) -> redis.Redis:
    """A Redis that is loaded with the live schema, while the next one is being loaded."""
    register_schema(store, layouts.schema)
    announce_schema(store, next_layouts.schema)
    return store


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
    """No worker lags behind the list, whenever it last looked at it."""
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


def forget(fingerprint: str, redis_url: str, registry: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "load", "--forget", fingerprint, "--registry", str(registry)]
    return subprocess.run(
        command,
        cwd=Path(__file__).parents[3],
        env={"FUNNELRANK_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_retired_schema_is_gone_to_the_last_key_and_gets_no_more_writes(
    server: Any, both: redis.Redis, layouts: Layouts, next_layouts: Layouts, redis_server: EmbeddedRedis, registry: Path
) -> None:
    send(server, event("5", NOW))
    for place in range(2500):
        both.set(item_key(next_layouts.fingerprint, str(place)), b"row")
    done = forget(next_layouts.fingerprint, redis_server.url, registry)
    assert done.returncode == 0, done.stderr
    assert f"2501 keys of schema {next_layouts.fingerprint} are gone" in done.stdout
    assert "2501 keys" in done.stderr
    send(server, event("6", NOW))
    assert both.keys(f"fr:{next_layouts.fingerprint}:*") == []
    assert both.hkeys(SCHEMAS) == [layouts.fingerprint.encode()]
    assert len(sequence(both, layouts)) == 2


def test_what_is_live_or_not_there_cannot_be_retired(
    both: redis.Redis, layouts: Layouts, redis_server: EmbeddedRedis, registry: Path
) -> None:
    before = both.dbsize()
    for wanted, told in (
        (layouts.fingerprint, "synthetic/1 is live"),
        ("0" * 16, f"{layouts.fingerprint} (loaded)"),
        ("*", "nothing of a schema *"),
    ):
        refused = forget(wanted, redis_server.url, registry)
        assert refused.returncode == 1
        assert told in refused.stderr
    assert both.dbsize() == before


def test_two_registries_on_one_redis_cannot_remove_each_others_schema(
    tmp_path: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    layouts: Layouts,
    next_layouts: Layouts,
) -> None:
    """A registry may forget what it has loaded alone; what both have loaded goes when both have forgotten it."""
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "items.csv").write_text("item_id,tag,topics,price,quality\n1,a,x,2,3\n")
    first = tmp_path / "first"
    second = tmp_path / "second"
    for registry in (first, second):
        kit.publish(registry, "1")
        kit.publish(registry, "2", schema=next_layouts.schema.model_dump(mode="json"))
        kit.go_live(registry, "2")
    own = layouts.fingerprint
    command = [
        sys.executable,
        "-m",
        "service",
        "load",
        str(tables),
        "--bundle",
        "synthetic/1",
        "--registry",
        str(first),
    ]
    environment = {"FUNNELRANK_REDIS_URL": redis_server.url}
    subprocess.run(command, cwd=Path(__file__).parents[3], env=environment, timeout=60, check=True)

    refused = forget(own, redis_server.url, second)
    assert refused.returncode == 1
    assert str(first) in refused.stderr
    assert store.exists(item_key(own, "1")) == 1
    assert store.hexists(SCHEMAS, own)

    command[-1] = str(second)
    subprocess.run(command, cwd=Path(__file__).parents[3], env=environment, timeout=60, check=True)
    moved = first.rename(tmp_path / "moved")
    refused = forget(own, redis_server.url, moved)
    assert refused.returncode == 1, "the second registry has loaded it too"
    assert str(second) in refused.stderr
    assert store.exists(item_key(own, "1")) == 1
    assert forget(own, redis_server.url, second).returncode == 0
    assert store.keys(f"fr:{own}:*") == []
