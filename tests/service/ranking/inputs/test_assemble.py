"""Tests that rows from Redis become the same arrays as the packed raw rows."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from features import FeatureSchema, RowLayout
from features.layouts import Layouts
from features.packing.rows import multi_keys_of_column
from service.errors import InvalidRequest
from service.ranking.inputs.assemble import Assembled, assemble, item_rows, pack_raw, packed_context, put_own_features
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import StoredRows
from service.store.item_rows import CORRUPT, KNOWN
from service.store.opening import open_store
from service.store.redis.keys import behaviours_key, item_key, user_key

USER = {"user_id": "712", "gender": "f", "interests": ["a", "b", "c", "d"], "age": 31}
ITEMS: dict[str, dict[str, Any]] = {
    "1": {"item_id": "1", "tag": 39, "topics": ["a"], "price": 3.5, "quality": None},
    "2": {"item_id": "2", "tag": None, "topics": [], "price": None, "quality": 0.25},
    "3": {"item_id": "3", "tag": "39", "topics": ["x", "y", "z"], "price": 1e9, "quality": -1},
}


async def fetch(url: str, layouts: Layouts, user_id: str, item_ids: list[str]) -> StoredRows:
    reader = open_store(url, 20_000)
    try:
        return await reader.fetch(layouts, user_id, item_ids, 20.0)
    finally:
        reader.close()


def assembled(
    layouts: Layouts,
    stored: StoredRows | None,
    user_id: str,
    item_ids: list[str],
    own: dict[int, dict[str, Any]],
    context: bytes,
    now_ms: int,
) -> Assembled:
    """The graph's inputs, assembled as by the ranker."""
    items = item_rows(layouts, stored, item_ids)
    for _ in put_own_features(layouts.item, items, own):
        pass
    return assemble(layouts, stored, items, user_id, context, now_ms)


def columns(rows: list[dict[str, Any]], names: list[str]) -> dict[str, np.ndarray]:
    made = {}
    for name in names:
        made[name] = np.empty(len(rows), dtype=object)
        made[name][:] = [r.get(name) for r in rows]
    return made


@pytest.fixture
def filled(store: redis.Redis, layouts: Layouts) -> redis.Redis:
    assert layouts.behaviour is not None
    store.set(user_key(layouts.fingerprint, "712"), layouts.user.pack(USER))
    for item_id, values in ITEMS.items():
        store.set(item_key(layouts.fingerprint, item_id), layouts.item.pack(values))
    for place, item_id in enumerate("12312312"):
        row = layouts.behaviour.pack_event(layouts.item.pack(ITEMS[item_id]), "click", 1, 1_650_000_000_000 + place)
        store.zadd(
            behaviours_key(layouts.fingerprint, "712"), {place.to_bytes(8, "big") + row: 1_650_000_000_000 + place}
        )
    return store


async def test_arrays_from_redis_equal_the_packed_columns(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    order = ["3", "1", "2"]
    stored = await fetch(redis_server.url, layouts, "712", order)
    context = pack_raw(layouts.context, {"tab": 1, "hour": 13}, "context")
    made = assembled(layouts, stored, "712", order, {}, context, 1_650_000_100_000)
    assert (made.unknown_user, made.unknown_items, len(made.inputs["behaviour_times"])) == (False, 0, 5)
    items = layouts.item.pack_columns(
        columns([ITEMS[i] for i in order], list(layouts.item.key_columns | layouts.item.numeric_columns)), 3
    )
    user = layouts.user.pack_columns(columns([USER], list(USER)), 1)
    newest = [ITEMS[i] for i in reversed("12312312"[3:])]
    rows = layouts.item.pack_columns(columns(newest, list(ITEMS["1"])), 5)
    times = np.arange(1_650_000_000_007, 1_650_000_000_002, -1)
    assert layouts.behaviour is not None
    behaviours = layouts.behaviour.of_items(rows, np.array(["click"] * 5, dtype=object), np.array([1] * 5), times)
    for name, expected in (("user", user), ("item", items), ("behaviour", behaviours)):
        assert made.inputs[f"{name}_keys"].tobytes() == expected["keys"].tobytes()
        assert made.inputs[f"{name}_numerics"].tobytes() == expected["numerics"].tobytes()
    assert made.inputs["behaviour_times"].tolist() == times.tolist()
    assert made.inputs["request_time"].tolist() == [1_650_000_100_000]
    assert made.inputs["item_keys"].flags.c_contiguous


async def test_unknown_entities_are_known_by_their_id_alone(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    stored = await fetch(redis_server.url, layouts, "nobody", ["1", "new", "2", "newer"])
    made = assembled(layouts, stored, "nobody", ["1", "new", "2", "newer"], {}, layouts.context.default_row, 1)
    assert (made.unknown_user, made.unknown_items, len(made.inputs["behaviour_times"])) == (True, 2, 0)
    expected = [layouts.item.pack(r) for r in (ITEMS["1"], {"item_id": "new"}, ITEMS["2"], {"item_id": "newer"})]
    assert made.inputs["item_keys"].tobytes() == layouts.item.rows(b"".join(expected))["keys"].tobytes()
    assert (
        made.inputs["user_keys"].tobytes()
        == layouts.user.rows(layouts.user.pack({"user_id": "nobody"}))["keys"].tobytes()
    )


async def test_a_candidates_own_features_replace_the_stored_ones(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    stored = await fetch(redis_server.url, layouts, "712", ["1", "2"])
    made = assembled(
        layouts, stored, "712", ["1", "2"], {1: {"price": 7, "tag": "new"}}, layouts.context.default_row, 1
    )
    expected = layouts.item.rows(
        layouts.item.pack(ITEMS["1"]) + layouts.item.pack(ITEMS["2"] | {"price": 7, "tag": "new"})
    )
    assert made.inputs["item_keys"].tobytes() == expected["keys"].tobytes()
    assert made.inputs["item_numerics"].tobytes() == expected["numerics"].tobytes()


async def test_rows_of_a_wrong_length_count_as_missing(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    filled.set(item_key(layouts.fingerprint, "2"), b"short")
    filled.set(user_key(layouts.fingerprint, "712"), b"x" * 999)
    filled.zadd(behaviours_key(layouts.fingerprint, "712"), {b"rubbish": 1_750_000_000_000})
    stored = await fetch(redis_server.url, layouts, "712", ["1", "2", "3"])
    assert stored.corrupt == {"user": 1, "behaviour": 1, "item": 1}
    assert stored.user is None
    assert stored.items.states.tolist() == [KNOWN, CORRUPT, KNOWN]
    assert len(stored.behaviours) == 4


async def test_a_key_of_another_type_is_one_corrupt_row(
    filled: redis.Redis, redis_server: EmbeddedRedis, layouts: Layouts
) -> None:
    for key in (user_key(layouts.fingerprint, "712"), behaviours_key(layouts.fingerprint, "712")):
        filled.delete(key)
        filled.lpush(key, "x")
    stored = await fetch(redis_server.url, layouts, "712", ["1"])
    assert (stored.user, stored.behaviours) == (None, [])
    assert stored.corrupt == {"user": 1, "behaviour": 1}
    assert stored.items.states.tolist() == [KNOWN]


def test_without_the_store_everything_is_a_default(layouts: Layouts, kit: SimpleNamespace) -> None:
    made = assembled(layouts, None, "712", ["1", "2"], {}, layouts.context.default_row, 1)
    assert made.inputs["behaviour_keys"].shape == (0, layouts.behaviour.key_width if layouts.behaviour else 0)
    assert np.isnan(made.inputs["item_numerics"]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, [10**400], 2**64, {"a": 1}, [[1]], "x" * 600])
@pytest.mark.parametrize("feature", ["tag", "topics", "price"])
def test_what_is_no_feature_value_is_reported_by_name(layouts: Layouts, feature: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as error:
        pack_raw(layouts.item, {feature: value}, "candidates[3].features")
    assert error.value.errors[0].field == f"candidates[3].features.{feature}"


@pytest.mark.parametrize("context", [{}, {"tab": 1, "hour": 7}, {"hour": 7, "tab": "1"}, {"tab": None}, {"tab": 2.0}])
def test_a_remembered_context_has_the_row_of_its_values(layouts: Layouts, context: dict[str, Any]) -> None:
    for _ in range(2):
        assert packed_context(layouts.context, context) == pack_raw(layouts.context, context, "context")


def test_values_that_are_equal_in_python_are_not_mistaken_for_each_other(layouts: Layouts) -> None:
    """`true` is no number, although Python takes it for the number 1."""
    packed_context(layouts.item, {"quality": 1})
    with pytest.raises(InvalidRequest, match="quality"):
        packed_context(layouts.item, {"quality": True})
    with pytest.raises(InvalidRequest, match="hours"):
        packed_context(layouts.context, {"hours": 7})


@pytest.mark.parametrize("topics", [["", "a", "b"], [None, "", "a", None, "b", "c"], ["", ""], ["a", "", "b", 1.5]])
def test_missing_elements_of_a_list_take_no_place_in_a_request_as_in_tables(topics: list[object]) -> None:
    schema = FeatureSchema.model_validate({"item": [{"name": "topics", "type": "multi_categorical", "max_values": 2}]})
    layout = RowLayout(schema.item)
    column = np.empty(1, dtype=object)
    column[0] = topics
    of_table = multi_keys_of_column(schema.item[0], column)  # type: ignore[arg-type]
    of_request = layout.rows(pack_raw(layout, {"topics": topics}, "features"))["keys"]
    assert of_request.tolist() == of_table.tolist()
