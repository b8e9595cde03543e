"""Tests the count of context that varies within one request: wherever its impressions are, it is counted and
reported.
"""

import numpy as np
import pytest

from features import Categorical, MultiCategorical, Numeric, RowLayout
from models.data.cache import open_data
from models.data.encoding.variation import ContextVariation
from models.train import train

CONTEXT = RowLayout(
    [
        Numeric(name="price", type="numeric"),
        Categorical(name="tab", type="categorical"),
        MultiCategorical(name="seen", type="multi_categorical", max_values=3),
    ]
)


def encoded(groups, price, tab, seen=None):
    n = len(groups)
    lists = np.empty(n, dtype=object)
    lists[:] = seen or [[] for _ in range(n)]
    context = CONTEXT.pack_columns({"price": np.array(price), "tab": np.array(tab), "seen": lists}, n)
    group = np.array(groups, dtype=np.int64)
    return {"user": group.astype(np.int32), "time": 1_651_334_400_000 + group, "request": group, "context": context}


@pytest.mark.parametrize("by_request", [True, False])
def test_a_value_that_differs_in_a_later_batch_counts_once_per_group(by_request):
    variation = ContextVariation(CONTEXT, by_request)
    variation.add(encoded([1, 2, 3, 4], [1.0, 5.0, np.nan, 9.0], ["a", "b", "c", "d"], [[1, 2], [1], [1], []]))
    variation.add(encoded([2, 1, 3], [6.0, 1.0, 2.0], ["b", "a", "c"], [[1], [2, 1], [1]]))
    variation.add(encoded([2, 2], [6.0, 5.0], ["b", "b"], [[1], [1]]))
    # Group 4 has a single impression. The price differs in 2, and in 3, where one is missing; the order of the list in
    # 1.
    assert variation.described() == {"by_request": by_request, "groups": 3, "shares": {"price": 2 / 3, "seen": 1 / 3}}


def test_memory_is_bounded_and_the_share_is_that_of_a_sample():
    variation = ContextVariation(CONTEXT, by_request=True, most_groups=1000)
    rng = np.random.default_rng(1)
    for half in range(2):  # both impressions of a group lie far from each other
        for begin in range(0, 100_000, 10_000):
            groups = np.arange(begin, begin + 10_000)
            price = np.where(groups % 4 == 0, half, 7.0)
            variation.add(encoded(rng.permutation(groups), np.zeros(10_000), ["a"] * 10_000))
            variation.add(encoded(groups, np.zeros(10_000), np.where(price == 1, "b", "a")))
            assert len(variation._groups) <= 1000
    described = variation.described()
    assert 500 <= described["groups"] <= 1000
    assert described["shares"] == {"tab": pytest.approx(0.25, abs=0.05)}


def test_impressions_without_a_known_time_are_no_group():
    variation = ContextVariation(CONTEXT, by_request=False)
    variation.add(encoded([1, 1], [1.0, 2.0], ["a", "b"]) | {"time": np.zeros(2, np.int64)})
    assert variation.described() == {"by_request": False, "groups": 0, "shares": {}}


def requests_of(tables, *columns):
    """Impressions in requests of five: one user, one time and one context, except for the given columns."""
    shown = tables["impressions"].copy()
    shown["search"] = [f"q{i}" for i in range(len(shown) // 5) for _ in range(5)]
    for column in {"user_id", "time_ms", "tab", "battery"} - set(columns):
        shown[column] = shown.groupby("search")[column].transform("first")
    return tables | {"impressions": shown.sample(frac=1, random_state=1)}


@pytest.mark.parametrize(
    ("request_id", "groups"), [("search", "requests"), (None, "groups of one user and one time_ms")]
)
def test_training_warns_of_a_context_feature_that_varies(tiny_recipe, tables, tmp_path, request_id, groups):
    changes = {"data.request_id": request_id, "training.epochs": 1}
    recipe = tiny_recipe(requests_of(tables, "battery"), changes)
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    warning = (
        f"context.battery varies among the impressions of 100.00% of the {groups}; /rank takes one context per "
        "request, so the value belongs to the candidate: declare it under features.item or features.candidate "
        "(docs/your-own-data.md, Features)"
    )
    assert [w for w in metrics["warnings"] if w.startswith("context.")] == [warning]


def test_training_says_nothing_where_context_is_one_per_request(tiny_recipe, tables, tmp_path):
    data = open_data(tiny_recipe(requests_of(tables), {"data.request_id": "search"}), tmp_path / "cache")
    assert data.described["context_variation"]["shares"] == {}
    assert data.described["context_variation"]["groups"] > 100
