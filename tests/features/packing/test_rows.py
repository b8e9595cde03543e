"""Tests packed rows: raw values give the same bytes on the offline and the online path."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import MISSING_KEY, BehaviourLayout, FeatureError, FeatureSchema, RowLayout, key_of

SCHEMA = FeatureSchema.model_validate(
    {
        "user": [{"name": "city", "type": "categorical"}, {"name": "fans", "type": "numeric"}],
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "price", "type": "numeric"},
            {"name": "tags", "type": "multi_categorical", "max_values": 3},
            {"name": "length", "type": "numeric"},
            {"name": "author", "type": "categorical", "vocabulary": "city"},
        ],
        "context": [{"name": "tab", "type": "categorical"}],
        "behaviour": {"max_length": 5, "item_features": ["length", "tags", "item_id"], "scene_vocabulary": "tab"},
    }
)
LAYOUT = RowLayout(SCHEMA.item)

IDS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=8))
NUMBERS = st.one_of(st.none(), st.integers(-(2**40), 2**40), st.floats(width=32, allow_nan=False, allow_infinity=False))
LISTS = st.one_of(st.none(), st.lists(IDS, max_size=6))
ITEMS = st.fixed_dictionaries({"item_id": IDS, "price": NUMBERS, "tags": LISTS, "length": NUMBERS, "author": IDS})


def column(values):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


@given(st.lists(ITEMS, min_size=1, max_size=8))
def test_columns_packed_offline_equal_rows_packed_online_bit_for_bit(items):
    columns = {name: column([item[name] for item in items]) for name in items[0]}
    assert LAYOUT.pack_columns(columns, len(items)).tobytes() == b"".join(LAYOUT.pack(item) for item in items)


@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=8))
def test_a_float_column_packs_like_its_numbers_and_nan_is_missing(values):
    offline = LAYOUT.pack_columns({"price": np.array(values, dtype=np.float32)}, len(values)).tobytes()
    assert offline == b"".join(LAYOUT.pack({"price": None if math.isnan(v) else v}) for v in values)


@given(st.lists(st.tuples(ITEMS, IDS, IDS, st.integers(0, 2**45)), min_size=1, max_size=6))
def test_behaviours_of_a_table_equal_events_packed_one_by_one(events):
    layout = BehaviourLayout(SCHEMA)
    rows = np.concatenate([LAYOUT.rows(LAYOUT.pack(item)) for item, *_ in events])
    actions = column([e[1] for e in events])
    scenes = column([e[2] for e in events])
    offline = layout.of_items(rows, actions, scenes, np.array([e[3] for e in events], dtype=np.int64)).tobytes()
    assert offline == b"".join(
        layout.pack_event(LAYOUT.pack(item), action, scene, time) for item, action, scene, time in events
    )


def test_a_behaviour_carries_the_items_features_in_its_own_order_then_action_and_scene():
    layout = BehaviourLayout(SCHEMA)
    row = layout.rows(layout.pack_event(LAYOUT.pack({"item_id": 7, "tags": [1, 2], "length": 3.5}), "like", 4, 1234))[0]
    assert row["keys"].tolist() == [
        key_of("tags", 1),
        key_of("tags", 2),
        0,
        key_of("item_id", 7),
        key_of("action", "like"),
        key_of("tab", 4),
    ]
    assert row["numerics"].tolist() == [3.5]
    assert row["time"] == 1234


def test_what_is_not_given_is_missing():
    row = LAYOUT.rows(LAYOUT.pack({}))[0]
    assert (row["keys"] == MISSING_KEY).all()
    assert np.isnan(row["numerics"]).all()
    assert LAYOUT.pack({}) == LAYOUT.default_row


def test_packing_onto_a_row_keeps_what_is_not_given():
    full = {"item_id": 7, "price": 2.0, "tags": [1], "length": 3.0, "author": "b"}
    assert LAYOUT.pack({"price": 9.0}, onto=LAYOUT.pack(full)) == LAYOUT.pack(full | {"price": 9.0})


def test_a_multi_valued_feature_keeps_its_first_values_and_skips_missing_ones():
    row = LAYOUT.rows(LAYOUT.pack({"tags": [None, 5, "", 6, 7, 8]}))[0]
    assert row["keys"][LAYOUT.key_columns["tags"]].tolist() == [key_of("tags", v) for v in (5, 6, 7)]


def test_rows_are_little_endian_and_a_multiple_of_eight_bytes():
    for layout in (LAYOUT, RowLayout(SCHEMA.user), RowLayout(SCHEMA.context), BehaviourLayout(SCHEMA)):
        assert layout.dtype.itemsize % 8 == 0
        assert layout.dtype["keys"].base.str == "<i8"
        assert layout.dtype["numerics"].base.str == "<f4"


def test_rows_laid_end_to_end_are_read_without_a_copy():
    packed = LAYOUT.pack({"item_id": 1}) + LAYOUT.pack({"item_id": 2})
    rows = LAYOUT.rows(packed)
    assert rows["keys"][:, 0].tolist() == [key_of("item_id", 1), key_of("item_id", 2)]
    assert not rows.flags.owndata
    with pytest.raises(ValueError):
        LAYOUT.rows(packed[:-1])


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"price": "9"}, "price"),
        ({"price": True}, "price"),
        ({"price": float("inf")}, "price"),
        ({"price": float("nan")}, "price"),
        ({"price": 1e39}, "price"),
        ({"tags": "1,2"}, "tags"),
        ({"item_id": 1.5}, "item_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_features_name(values, field):
    with pytest.raises(FeatureError) as refused:
        LAYOUT.pack(values)
    assert refused.value.field == field
