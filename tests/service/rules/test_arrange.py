"""Tests what each type of rule does to a list, and which rules are refused."""

from typing import Any

import numpy as np
import pytest
from rule_cases import NOW_MS, bound, candidates, ids

from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.arrange import arrange
from service.rules.order.served import Served
from service.store.shown import DAY_MS, Exposures


def test_without_rules_the_order_is_that_of_the_scores_and_ties_keep_the_order_of_the_request() -> None:
    of = candidates([{}] * 5, scores=[0.2, 0.9, 0.2, np.nan, 0.5])
    assert ids(arrange(bound(), of, 5, NOW_MS), of) == ["1", "4", "0", "2", "3"]


def test_block_and_allow_remove_by_id_and_by_condition() -> None:
    of = candidates([{"price": 1.0}, {"price": 5.0}, {"author": "a"}, {"price": 9.0}])
    made = arrange(bound({"type": "block", "item_ids": ["0"]}), of, 4, NOW_MS)
    assert ids(made, of) == ["1", "2", "3"]
    assert made.removed == {0: 1}
    condition = {"feature": "price", "at_least": 5, "below": 9}
    assert ids(arrange(bound({"type": "allow", "when": condition}), of, 4, NOW_MS), of) == ["1"]
    assert ids(
        arrange(bound({"type": "block", "when": {"feature": "author", "one_of": ["a"]}}), of, 4, NOW_MS), of
    ) == [
        "0",
        "1",
        "3",
    ]


def test_seen_and_cap_count_recent_exposures_and_are_relaxed_rather_than_empty_the_list() -> None:
    of = candidates([{}] * 3)
    keys = of.item_keys
    times = NOW_MS - np.array([1, 2, 3, 20]) * DAY_MS
    exposures = Exposures(keys[[0, 0, 1, 2]], times, np.zeros(4, dtype=bool))
    seen = bound({"type": "seen", "within_days": 7})
    assert ids(arrange(seen, of, 3, NOW_MS, exposures), of) == ["2"]
    cap = bound({"type": "cap", "at_most": 2, "within_days": 7})
    assert ids(arrange(cap, of, 3, NOW_MS, exposures), of) == ["1", "2"]
    # A cap counts what was shown, not what the user did.
    acted = Exposures(exposures.keys, exposures.times_ms, np.ones(4, dtype=bool))
    assert ids(arrange(cap, of, 3, NOW_MS, acted), of) == ["0", "1", "2"]
    assert ids(arrange(seen, of, 3, NOW_MS, acted), of) == ["2"]
    # A ranking as of an earlier time knows nothing of what came later.
    earlier = NOW_MS - 5 * DAY_MS
    assert ids(arrange(bound({"type": "seen", "within_days": 30}), of, 3, earlier, exposures), of) == ["0", "1"]
    all_seen = arrange(bound({"type": "seen", "within_days": 30}), of, 3, NOW_MS, exposures)
    assert (ids(all_seen, of), all_seen.relaxed) == (["0", "1", "2"], (0,))


def test_rules_that_changed_nothing_are_told_from_those_that_did() -> None:
    of = candidates([{"author": author, "price": 1.0} for author in "abaabb"])
    spread = {"type": "spread", "feature": "author", "distance": 2}
    quiet = {"type": "quota", "feature": "author", "at_most": 3, "window": 4}
    rules = bound(
        {"type": "block", "item_ids": ["7"]},
        {"type": "boost", "formula": "score * price"},
        {"type": "pin", "item_id": "0", "position": 1},
        spread,
        quiet,
        {"type": "quota", "feature": "author", "at_most": 0, "first": 1},
    )
    made = arrange(rules, of, 6, NOW_MS)
    assert (ids(made, of), made.acted, made.relaxed) == (["0", "1", "2", "4", "3", "5"], {3}, (5,))
    assert arrange(bound(spread), of, 6, NOW_MS).acted == {0}
    assert arrange(bound(quiet), of, 6, NOW_MS).acted == set()


@pytest.mark.parametrize("method", ["mmr", "dpp", "ssd"])
def test_diversity_sees_only_what_filters_leave(method: str) -> None:
    rows = [{"x": 1.0, "y": 0.0}, {"x": 1.0, "y": 0.0}, {"x": 0.0, "y": 1.0}, {"x": 0.0, "y": 1.0}]
    diversity = {"type": "diversity", "method": method, "vector": ["x", "y"], "weight": 0.3}
    of = candidates(rows, scores=[1.0, 0.95, 0.9, 0.1])
    block = {"type": "block", "item_ids": ["0"]}
    made = arrange(bound(block, diversity), of, 4, NOW_MS)
    without = candidates(rows[1:], scores=[0.95, 0.9, 0.1])
    expected = arrange(bound(diversity), without, 4, NOW_MS)
    assert ids(made, of) == [str(int(item_id) + 1) for item_id in ids(expected, without)] == ["1", "2", "3"]
    assert made.acted == {0}


def test_pages_of_a_diverse_list_join_though_a_filter_removes_what_was_shown() -> None:
    rng = np.random.default_rng(3)
    rows = [{"x": x, "y": y} for x, y in rng.normal(size=(12, 2)).tolist()]
    diversity = {"type": "diversity", "method": "mmr", "vector": ["x", "y"], "weight": 0.7}
    rules = bound({"type": "seen", "within_days": 7}, diversity)
    of = candidates(rows)
    whole = ids(arrange(rules, of, 12, NOW_MS), of)
    first = ids(arrange(rules, of, 5, NOW_MS), of)
    keys = of.item_keys[[int(item_id) for item_id in first]]
    exposures = Exposures(keys, np.full(5, NOW_MS - 1), np.zeros(5, dtype=bool))
    second = ids(arrange(rules, of, 7, NOW_MS, exposures, Served(first)), of)
    assert [*first, *second] == whole


@pytest.mark.parametrize(("share", "first", "at_most"), [(0.29, 100, 29), (0.57, 100, 57), (0.3, 10, 3), (0.35, 10, 3)])
def test_a_share_is_that_of_the_decimal_number_rounded_down(share: float, first: int, at_most: int) -> None:
    of = candidates([{"author": "a"}] * 100 + [{"author": f"u{i}"} for i in range(100)])
    made = arrange(bound({"type": "quota", "feature": "author", "share": share, "first": first}), of, first, NOW_MS)
    assert sum(place < 100 for place in made.order.tolist()) == at_most


def test_a_boost_changes_the_score_of_what_matches() -> None:
    of = candidates([{"price": 1.0}, {"price": 100.0}, {}], scores=[0.5, 0.4, 0.3])
    rule = {"type": "boost", "formula": "score * 2 + pctr", "when": {"feature": "price", "at_least": 50}}
    made = arrange(bound(rule), of, 3, NOW_MS)
    assert ids(made, of) == ["1", "0", "2"]
    np.testing.assert_allclose(made.scores, [0.5, 1.2, 0.3], rtol=1e-6)


def test_a_boost_that_gives_no_number_leaves_the_score() -> None:
    of = candidates([{"price": 2.0}, {}, {"price": 0.0}], scores=[0.5, 0.4, 0.3])
    made = arrange(bound({"type": "boost", "formula": "score / price"}), of, 3, NOW_MS)
    np.testing.assert_allclose(made.scores[:2], [0.25, 0.4], rtol=1e-6)
    assert np.isfinite(made.scores).all()


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown feature": ([{"type": "spread", "feature": "autor", "distance": 3}], "did you mean 'author'"),
    "wrong kind": ([{"type": "spread", "feature": "price", "distance": 3}], "'price' is not a categorical feature"),
    "unknown name": ([{"type": "boost", "formula": "scor * 2"}], "unknown name 'scor'; did you mean 'score'"),
    "no vector": ([{"type": "diversity", "method": "mmr", "weight": 0.3, "vector": "z"}], "neither a vector"),
}


@pytest.mark.parametrize("case", BAD)
def test_rules_that_do_not_fit_the_model_are_refused_by_their_field(case: str) -> None:
    rules, message = BAD[case]
    with pytest.raises(RulesError, match=message) as refused:
        bound(*rules)
    assert refused.value.field.startswith("rules.default[0].")


CONTRADICTIONS: dict[str, list[dict[str, Any]]] = {
    "two pins to position 3": [{"type": "pin", "item_id": i, "position": 3} for i in ("1", "2")],
    "item '1' is pinned to two positions": [{"type": "pin", "item_id": "1", "position": p} for p in (3, 4)],
    "item '1' is pinned and blocked": [
        {"type": "pin", "item_id": "1", "position": 3},
        {"type": "block", "item_ids": ["1"]},
    ],
    "every list would be empty": [{"type": "allow", "item_ids": ["1"]}, {"type": "block", "item_ids": ["1"]}],
    "it can never hold": [{"type": "quota", "feature": "author", "one_of": ["a"], "at_least": 4, "first": 3}],
    "give either window or first": [{"type": "quota", "feature": "author", "at_most": 4}],
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_rules_that_contradict_one_another_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RuleSets.model_validate({"rules": {"home": CONTRADICTIONS[message]}})
