"""Tests dense vectors in packed rows: bytes, missing ones, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import BehaviourLayout, FeatureError, FeatureSchema, RowLayout
from features.layouts import Layouts, graph_inputs

ITEM = [
    {"name": "item_id", "type": "categorical"},
    {"name": "price", "type": "numeric"},
    {"name": "text", "type": "vector", "width": 3},
    {"name": "stars", "type": "numeric"},
    {"name": "image", "type": "vector", "width": 2, "project": 1},
]
SCHEMA = FeatureSchema.model_validate(
    {"item": ITEM, "behaviour": {"max_length": 5, "item_features": ["image", "item_id", "stars"]}}
)
LAYOUT = RowLayout(SCHEMA.item)
NUMBERS = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False, min_value=-3e38, max_value=3e38))
VECTORS = st.one_of(st.none(), st.lists(NUMBERS, min_size=3, max_size=3))


def column(values):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def test_a_vector_has_columns_among_the_numbers_in_the_order_of_the_schema():
    row = LAYOUT.rows(LAYOUT.pack({"price": 1, "text": [0.5, -2, 3], "image": None, "stars": 4}))[0]
    np.testing.assert_array_equal(row["numerics"], np.array([1, 0.5, -2, 3, 4, np.nan, np.nan], np.float32))
    assert LAYOUT.number_names == ("price", "text[0]", "text[1]", "text[2]", "stars", "image[0]", "image[1]")
    assert LAYOUT.number_columns(["stars", "item_id", "text"]).tolist() == [4, 1, 2, 3]
    assert graph_inputs(Layouts.of(SCHEMA))["item_numerics"] == ("float32", ("C", 7))


@given(st.lists(VECTORS, min_size=1, max_size=6))
def test_a_column_of_vectors_packs_like_its_vectors_bit_for_bit(vectors):
    expected = b"".join(LAYOUT.pack({"text": vector}) for vector in vectors)
    assert LAYOUT.pack_columns({"text": column(vectors)}, len(vectors)).tobytes() == expected
    matrix = np.array([[np.nan] * 3 if vector is None else vector for vector in vectors], np.float64)
    assert LAYOUT.pack_columns({"text": matrix}, len(vectors)).tobytes() == expected


def test_a_merge_keeps_the_vector_that_it_does_not_name_and_null_makes_it_missing():
    stored = LAYOUT.pack({"text": [1, 2, 3], "image": [4, 5]})
    merged = LAYOUT.rows(LAYOUT.pack({"price": 7, "image": None}, onto=stored))[0]["numerics"]
    np.testing.assert_array_equal(merged, np.array([7, 1, 2, 3, np.nan, np.nan, np.nan], np.float32))


def test_a_behaviour_carries_a_vector_of_its_item():
    layout = BehaviourLayout(SCHEMA)
    row = LAYOUT.pack({"item_id": 7, "stars": 4, "text": [1, 2, 3], "image": [5, 6]})
    packed = layout.rows(layout.pack_event(row, "click", "home", 1))[0]
    np.testing.assert_array_equal(packed["numerics"], np.array([5, 6, 4], np.float32))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], "a vector has 3 numbers, this one 2"),
        ([], "a vector has 3 numbers, this one 0"),
        ([1.0, math.nan, 2.0], "element 2 is NaN; a vector is whole"),
        ([1.0, 2.0, math.inf], r"element 3: a numeric value lies within \+-3.4e\+38"),
        ([1.0, 2.0, 10**400], r"element 3: a numeric value lies within"),
        ([None, 1.0, 2.0], "element 1 is null; a vector is whole"),
        ([True, 1.0, 2.0], "element 1: a numeric value is a number or null, not bool"),
        (["1", "2", "3"], "element 1: a numeric value is a number or null, not str"),
        (np.array(["1", "2", "3"]), "element 1: a numeric value is a number or null, not str"),
        ("1|2|3", "a vector is a list of 3 numbers or null, not str"),
        (0.5, "a vector is a list of 3 numbers or null, not float"),
    ],
)
def test_a_wrong_width_and_values_that_are_no_finite_numbers_are_refused(value, message):
    with pytest.raises(FeatureError, match=message) as error:
        LAYOUT.pack({"text": value})
    assert error.value.field == "text"
    with pytest.raises(FeatureError, match=message):
        LAYOUT.pack_columns({"text": column([[1, 2, 3], value])}, 2)


def test_a_matrix_with_a_gap_inside_a_vector_is_refused():
    with pytest.raises(FeatureError, match="element 2 is NaN"):
        LAYOUT.pack_columns({"text": np.array([[np.nan] * 3, [1, np.nan, 2]])}, 2)
    with pytest.raises(FeatureError, match="a vector has 3 numbers, this one 2"):
        LAYOUT.pack_columns({"text": np.ones((2, 2))}, 2)


def test_rows_depend_on_the_width_and_not_on_the_projection():
    def fingerprint(**changes):
        return FeatureSchema.model_validate({"item": [*ITEM[:2], ITEM[2] | changes]}).fingerprint

    assert fingerprint() == fingerprint(project=8)
    assert fingerprint() != fingerprint(width=4)
    plain = FeatureSchema.model_validate({"item": ITEM[:2]})
    assert plain.fingerprint == "6c826337672126a8"


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 4097}, {"width": 3, "project": 0}, {}])
def test_a_width_has_limits(options):
    with pytest.raises(ValueError, match=r"width|project"):
        FeatureSchema.model_validate({"item": [*ITEM[:2], {"name": "text", "type": "vector"} | options]})
