"""Tests counters: what a schema may declare, and the numbers of a cell against ones that were worked out by hand."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from features import FeatureSchema, SchemaError
from features.counters import BUCKETS, DISTINCT, ENTRY, Increment, cell_layouts, increments, numbers_of

PLAIN = {"item": [{"name": "item_id", "type": "categorical"}, {"name": "price", "type": "numeric"}]}
RATE = {
    "name": "ctr",
    "statistic": "rate",
    "by": "item",
    "actions": ["click"],
    "window_s": 300,
    "bucket_s": 60,
    "prior": {"a": 1, "b": 20},
}
COUNT = {"name": "clicks", "statistic": "count", "by": "item", "actions": ["click"], "window_s": 300, "bucket_s": 60}
NOW = 1_700_000_000_000 // 60_000 * 60_000 + 1_000  # a second after a bucket began
VALUES = {"user": 7, "item": 9}


def schema(*counters: dict[str, Any]) -> FeatureSchema:
    return FeatureSchema.model_validate(PLAIN | {"counters": list(counters)})


def cell_of(layout: Any, *events: tuple[str, int, int]) -> np.ndarray:
    """A cell with events (action, time, user), as a store adds them."""
    cell = np.zeros((1, layout.entries), ENTRY)
    for action, time_ms, user in events:
        for made in increments(layout, action, time_ms, VALUES | {"user": user}):
            place = made.start
            if made.kind == BUCKETS:
                same = cell[0, place]["stamp"] == made.one
                cell[0, place] = (made.one, cell[0, place]["count"] + 1 if same else 1)
                continue
            if made.kind == DISTINCT:
                held = cell[0, made.start : made.start + made.size]
                own = np.flatnonzero((held["stamp"] == made.one) & (held["count"] > 0))
                place = made.start + int(own[0] if len(own) else np.argmin(held["count"]))
            cell[0, place] = (made.one, made.two)
    return cell


def number(counter: dict[str, Any], *events: tuple[str, int, int], at: int = NOW) -> float:
    (layout,) = cell_layouts(schema(counter).counters)
    return float(numbers_of(layout, cell_of(layout, *events), at)[0, 0])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"window_s": 60 * 169}, "counters.ctr.window_s: 10140 s exceeds its buckets, 168 of 60 s at most"),
        ({"window_s": 301}, "counters.ctr.window_s: 301 s is no multiple of bucket_s, 60 s"),
        ({"prior": {"a": -1, "b": 20}}, "counters.0.rate.prior.a"),
        ({"prior": {"a": 1, "b": float("nan")}}, "counters.0.rate.prior.b"),
        ({"statistic": "median"}, "counters.0"),
        ({"by": "shop"}, "counters.0.rate.by"),
        ({"half_life": 5}, "counters.0.rate.half_life"),
        ({"actions": []}, "counters.0.rate.actions"),
        ({"by": "user", "item_feature": "pric"}, "counters.ctr.item_feature: 'pric' is not a categorical item feature"),
        ({"by": "user", "item_feature": "price"}, "counters.ctr.item_feature: 'price' is not a categorical"),
        ({"item_feature": "item_id"}, "counters.ctr.item_feature: only a counter by user"),
        ({"name": "price"}, "feature 'price' is defined twice"),
        (
            {"by": "user", "item_feature": "item_id", "values": 1024, "window_s": 60 * 168},
            "counters.ctr.values: the counters of one user take up to",
        ),
    ],
)
def test_a_counter_that_cannot_be_kept_is_refused_with_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises((ValidationError, SchemaError)) as refused:
        schema(RATE | change)
    assert field in str(refused.value)


def test_the_counters_of_one_item_are_bounded_together() -> None:
    """A ranking reads those of all candidates."""
    week = RATE | {"window_s": 7 * 86_400, "bucket_s": 3600}
    counters = [week | {"name": f"r{i}", "actions": [f"a{i}"], "per": [f"b{i}"]} for i in range(4)]
    schema(*counters[:3])
    with pytest.raises(
        ValidationError, match=r"counters.r0.window_s: the counters of one item take up to 10,880 bytes"
    ):
        schema(*counters)


def test_a_distinct_counter_names_what_it_counts() -> None:
    with pytest.raises(ValidationError, match=r"counters.n.of: 'shop' is not 'user', 'item' or a categorical"):
        schema(COUNT | {"name": "n", "statistic": "distinct", "of": "shop"})


def test_the_fingerprint_covers_the_meaning_of_counters() -> None:
    """Versions of one fingerprint read the same numbers. A schema without counters keeps its rows."""
    plain = FeatureSchema.model_validate(PLAIN)
    assert "counters" not in plain.model_dump()
    assert plain.fingerprint == FeatureSchema.model_validate(PLAIN | {"counters": []}).fingerprint
    same = [schema(RATE | change).fingerprint for change in ({}, {"transform": "log1p"}, {"bins": 8})]
    assert len(set(same)) == 1
    changes = (
        {"window_s": 600},
        {"actions": ["like"]},
        {"by": "user"},
        {"prior": {"a": 2, "b": 5}},
        {"half_life_s": 9},
    )
    other = [schema(RATE | change).fingerprint for change in changes]
    assert len({plain.fingerprint, *same, *other}) == 7


def test_counters_of_the_same_events_share_their_buckets() -> None:
    (layout,) = cell_layouts(schema(RATE, COUNT | {"window_s": 600}).counters)
    assert [term.series for term in layout.terms] == [(0, 1), (0,)]
    assert layout.series[0].size > layout.series[1].size


def test_a_window_has_the_present_bucket_and_those_before_it() -> None:
    minute = 60_000
    events = [("click", NOW - age * minute, 1) for age in (0, 0, 1, 4, 5)]
    assert number(COUNT, *events) == 4  # the one of five minutes ago has passed
    assert number(COUNT, *events, at=NOW + minute) == 3
    assert number(COUNT, *events, at=NOW - minute) == 3  # those ahead of a moment do not count
    assert number(COUNT, ("view", NOW, 1)) == 0


def test_a_rate_has_a_prior_and_may_fade() -> None:
    events = [("click", NOW, 1), *[("impression", NOW - age * 60_000, 1) for age in (0, 1, 1, 2)]]
    assert number(RATE, *events) == pytest.approx(2 / 24)
    assert number(RATE) == pytest.approx(1 / 20)
    faded = RATE | {"half_life_s": 60}
    assert number(faded, *events) == pytest.approx(2 / (20 + 1 + 2 / 2 + 1 / 4))
    assert np.isnan(number(RATE | {"prior": {"a": 0, "b": 0}}))


def test_distinct_values_count_once_up_to_the_most() -> None:
    users = COUNT | {"statistic": "distinct", "of": "user", "most": 3}
    assert number(users, *[("click", NOW, user) for user in (1, 2, 2, 1)]) == 2
    assert number(users, *[("click", NOW, user) for user in range(1, 9)]) == 3
    assert number(users, ("click", NOW - 300_000, 1), ("click", NOW, 2)) == 1
    assert number(users, ("click", NOW, 0)) == 0  # a missing value is none


def test_the_time_since_the_last_event_is_missing_beyond_the_window() -> None:
    since = {"name": "since", "statistic": "time_since", "by": "item", "actions": ["click"], "window_s": 300}
    assert number(since, ("click", NOW - 2500, 1)) == 2.5
    assert number(since, ("click", NOW + 2500, 1)) == 0
    assert np.isnan(number(since, ("click", NOW - 300_001, 1)))
    assert np.isnan(number(since))


def test_an_event_ahead_of_time_takes_no_bucket_that_still_counts() -> None:
    (layout,) = cell_layouts(schema(COUNT).counters)
    slots = {
        made.start
        for time_ms in range(NOW - 4 * 60_000, NOW + 300_001, 60_000)
        for made in increments(layout, "click", time_ms, VALUES)
        if isinstance(made, Increment)
    }
    assert len(slots) == 10
