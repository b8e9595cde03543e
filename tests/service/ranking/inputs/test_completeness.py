"""Tests features that a request does not give: counted as degraded, or refused if required; and too young
behaviours.
"""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
from ranked_once import rank

from features import FeatureSchema
from features.layouts import Layouts
from service import clock
from service.errors import InvalidRequest
from service.ranking.inputs.assemble import pack_raw
from service.ranking.query import Query, Ranking, RankingOptions
from service.rollout.observing.observers import AnsweredRanking, Observers
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import behaviours_key, item_key

NOW = 1_700_000_000_000


def schema_with(kit: SimpleNamespace, lag_s: float = 0.0, **required: bool) -> dict[str, Any]:
    schema = copy.deepcopy(kit.SCHEMA)
    for feature in (*schema["user"], *schema["item"], *schema["context"]):
        if feature["name"] in required:
            feature["required"] = required[feature["name"]]
    if lag_s:
        schema["behaviour"]["lag_s"] = lag_s
    return dict(schema)


def degraded(ranking: Ranking) -> list[str]:
    return [text for text in map(str, ranking.degraded) if text.startswith("missing")]


@pytest.fixture
def known(store: redis.Redis, layouts: Layouts) -> None:
    store.set(item_key(layouts.fingerprint, "1"), layouts.item.pack({"item_id": "1", "price": 1.0}))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, ["missing_context:2"]),
        ({"tab": 1}, ["missing_context:1"]),
        ({"tab": 1, "hour": None}, []),
        ({"tab": None, "hour": None}, []),
    ],
)
async def test_context_that_is_left_out_is_counted_and_null_is_not(
    registry: Path, redis_server: EmbeddedRedis, known: None, context: dict[str, Any], expected: list[str]
) -> None:
    assert degraded(await rank(registry, redis_server.url, Query("712", ["1"], context=context))) == expected


@pytest.mark.parametrize(
    ("item", "features", "expected"),
    [
        ("new", {"tag": "a", "topics": [], "price": None}, ["missing_features:1"]),
        ("new", {"tag": "a"}, ["missing_features:3"]),
        ("new", {"tag": "a", "topics": [], "price": 1, "quality": 2}, []),
        ("1", {"tag": "a"}, []),
    ],
)
async def test_features_that_an_item_without_a_row_leaves_out_are_counted(
    registry: Path, redis_server: EmbeddedRedis, known: None, item: str, features: dict[str, Any], expected: list[str]
) -> None:
    query = Query("712", ["1" if item == "new" else "new", item], {1: features}, {"tab": 1, "hour": 2})
    assert degraded(await rank(registry, redis_server.url, query)) == expected


@pytest.mark.parametrize(
    ("context", "own", "field"),
    [
        ({"hour": 3}, {}, "context.tab"),
        ({"tab": None, "hour": 3}, {}, "context.tab"),
        ({"tab": 1}, {0: {"price": 1}}, "candidates[0].features.quality"),
        ({"tab": 1}, {1: {"quality": None}}, "candidates[1].features.quality"),
    ],
)
async def test_a_required_feature_that_is_left_out_is_refused(
    tmp_path: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    known: None,
    context: dict[str, Any],
    own: dict[int, dict[str, Any]],
    field: str,
) -> None:
    kit.publish(tmp_path, "1", schema=schema_with(kit, tab=True, quality=True))
    kit.go_live(tmp_path, "1")
    with pytest.raises(InvalidRequest) as error:
        await rank(tmp_path, redis_server.url, Query("712", ["new", "1"], own, context))
    assert [e.field for e in error.value.errors] == [field]
    assert "required" in error.value.detail
    assert degraded(await rank(tmp_path, redis_server.url, Query("712", ["new", "1"], {}, {"tab": 1, "hour": 1}))) == []


def test_required_and_lag_are_left_out_of_fingerprint_and_of_the_written_schema_at_their_default(
    kit: SimpleNamespace, schema: FeatureSchema
) -> None:
    other = FeatureSchema.model_validate(schema_with(kit, lag_s=60, tab=True, price=True, gender=True))
    assert other.fingerprint == schema.fingerprint
    assert FeatureSchema.model_validate_json(other.model_dump_json()) == other
    written = json.dumps(schema.model_dump(mode="json"))
    assert "required" not in written
    assert "lag_s" not in written


def test_a_write_of_null_to_a_required_feature_is_refused(kit: SimpleNamespace) -> None:
    layout = Layouts.of(FeatureSchema.model_validate(schema_with(kit, price=True))).item
    with pytest.raises(InvalidRequest, match="required"):
        pack_raw(layout, {"price": None}, "items[0].features")
    assert pack_raw(layout, {"price": 1}, "items[0].features")


@pytest.mark.parametrize(("lag_s", "seen"), [(0, 4), (1, 3), (60, 1), (3600, 0)])
async def test_a_behaviour_younger_than_the_lag_does_not_count(
    tmp_path: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis, lag_s: float, seen: int
) -> None:
    """As in training, a behaviour counts if it is older than the request's time by more than the lag."""
    kit.publish(tmp_path, "1", schema=schema_with(kit, lag_s=lag_s))
    kit.go_live(tmp_path, "1")
    layouts = Layouts.of(FeatureSchema.model_validate(kit.SCHEMA))
    assert layouts.behaviour is not None
    ages = (1, 60_000, 60_001, 1001, 0) if lag_s else (1, 60_000, 60_001, 1001)
    for age in ages:
        row = layouts.behaviour.pack_event(layouts.item.pack({"item_id": "1"}), "click", None, NOW - age)
        store.zadd(behaviours_key(layouts.fingerprint, "712"), {age.to_bytes(8, "big") + row: NOW - age})
    counted: list[np.ndarray] = []
    original = Observers.answered

    def answered(self: Observers, ranking: AnsweredRanking) -> None:
        assert ranking.request is not None
        counted.append(ranking.request.inputs["behaviour_times"])
        original(self, ranking)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Observers, "answered", answered)
        await rank(
            tmp_path,
            redis_server.url,
            Query("712", ["1"], context={"tab": 1, "hour": 1}, options=RankingOptions(timestamp=NOW)),
        )
    assert len(counted[0]) == seen
    assert all(NOW - time > lag_s * 1000 for time in counted[0].tolist())


def test_a_clock_that_is_set_back_does_not_take_the_time_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.now_ms()
    real = clock.time()
    monkeypatch.setattr(clock, "time", lambda: real - 2 * 86_400)
    assert clock.now_ms() >= before
    monkeypatch.setattr(clock, "time", lambda: real + 60)
    assert clock.now_ms() >= before + 59_000
