"""Tests the comparison of candidates with plain Python: differences, ranks, order, missing values, single
candidates.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from features import FeatureSchema
from features.layouts import Layouts, graph_inputs
from features.within_request import ComparedColumns, within_request


def schema(**more):
    item = [
        {"name": "item_id", "type": "categorical"},
        {"name": "plain", "type": "numeric"},
        {"name": "price", "type": "numeric", "within_request": True},
        {"name": "shown", "type": "numeric", "transform": "log1p", "within_request": True},
    ]
    return FeatureSchema.model_validate({"item": item} | more)


COMPARED = ComparedColumns.of(schema())


def reference(numerics):
    """The same comparison in plain Python floats (float64), column by column."""
    n = len(numerics)
    out = [[math.nan] * 4 for _ in range(n)]
    for k, (column, logarithm) in enumerate(((1, False), (2, True))):
        values = [float(row[column]) for row in numerics]
        if logarithm:
            values = [math.copysign(math.log1p(abs(v)), v) for v in values]
        present = [v for v in values if not math.isnan(v)]
        for i, value in enumerate(values):
            if math.isnan(value):
                continue
            below = sum(other < value for other in present)
            equal = sum(other == value for other in present)
            out[i][k] = value - math.fsum(present) / len(present)
            out[i][2 + k] = (below + (equal + 1) / 2 - 0.5) / len(present)
    return np.array(out).reshape(n, 4)


number = st.one_of(
    st.just(math.nan),
    st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0]),
    st.floats(-1e6, 1e6, width=32),
)
rows = st.lists(st.tuples(number, number, number), min_size=1, max_size=30)


@given(rows)
def test_differences_and_ranks_are_those_of_plain_python(values):
    numerics = np.array(values, dtype=np.float32)
    got = within_request(COMPARED, numerics)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, reference(numerics), rtol=1e-6, atol=1e-6 * max(1, np.nanmax(np.abs(numerics), initial=1))
    )


@given(rows, st.randoms(use_true_random=False))
def test_another_order_of_the_candidates_changes_no_bit(values, random):
    numerics = np.array(values, dtype=np.float32)
    order = list(range(len(values)))
    random.shuffle(order)
    np.testing.assert_array_equal(within_request(COMPARED, numerics[order]), within_request(COMPARED, numerics)[order])


def test_a_candidate_alone_is_the_mean_and_the_middle():
    got = within_request(COMPARED, np.array([[np.nan, 80.0, 7.0]], np.float32))
    np.testing.assert_array_equal(got, [[0, 0, 0.5, 0.5]])


def test_missing_values_stay_missing_and_do_not_count():
    got = within_request(COMPARED, np.array([[0, 1, 0], [0, np.nan, 0], [0, 3, 0]], np.float32))
    np.testing.assert_array_equal(got[:, [0, 2]], [[-1, 0.25], [np.nan, np.nan], [1, 0.75]])
    np.testing.assert_array_equal(got[:, 3], [0.5, 0.5, 0.5])
    assert np.isnan(within_request(COMPARED, np.full((3, 3), np.nan, np.float32))).all()


def test_the_largest_numbers_stay_finite():
    largest = np.finfo(np.float32).max
    got = within_request(COMPARED, np.array([[0, largest, 0], [0, -largest, 0], [0, -largest, 0]], np.float32))
    assert np.isfinite(got).all()


def test_no_candidates_give_no_rows():
    assert within_request(COMPARED, np.zeros((0, 3), np.float32)).shape == (0, 4)


def test_the_graph_gets_one_input_more_and_stored_rows_stay_as_they_are():
    compared = schema()
    without = schema(item=[f.model_dump() | {} for f in compared.item])
    plain = FeatureSchema.model_validate(
        {"item": [{k: v for k, v in f.model_dump().items() if k != "within_request"} for f in without.item]}
    )
    assert graph_inputs(Layouts.of(compared))["item_within"] == ("float32", ("C", 4))
    assert "item_within" not in graph_inputs(Layouts.of(plain))
    assert compared.fingerprint == plain.fingerprint, "the store's rows serve both"
    assert "within_request" not in plain.model_dump_json(), "older services read a schema that compares nothing"


@pytest.mark.parametrize("group", ["user", "context"])
def test_what_is_alike_in_a_request_cannot_be_compared(group):
    with pytest.raises(ValidationError, match="only item features"):
        schema(**{group: [{"name": "age", "type": "numeric", "within_request": True}]})
