"""Tests the second stage: rules hold exactly or are named, the best order is found, no candidate is lost or doubled."""

from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest

from features import FeatureSchema, RowLayout
from service.rules.bound import BoundRules, bind_rules
from service.rules.candidates import CandidateList
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.arrange import Arrangement, arrange, arranging
from service.rules.order.search import Budget, OrderSearch, cost_of_position
from service.rules.order.served import Served
from service.store.shown import DAY_MS, Exposures

NOW_MS = 1_700_000_000_000
AUTHORS = ("a", "b", "c")
SOURCES = ("near", "new", "hot")
SCHEMA = FeatureSchema.model_validate(
    {
        "item": [
            {"name": "author", "type": "categorical"},
            {"name": "topics", "type": "multi_categorical", "max_values": 2},
            {"name": "price", "type": "numeric"},
            {"name": "x", "type": "numeric"},
            {"name": "y", "type": "numeric"},
        ]
    }
)
LAYOUT = RowLayout(SCHEMA.item)


def candidates(rows: Sequence[dict[str, Any]], scores: Sequence[float] | None = None) -> CandidateList:
    """Candidates `0`, `1`, ... with these item rows; the first has the highest score unless `scores` say otherwise."""
    features = [{name: value for name, value in row.items() if name != "source"} for row in rows]
    packed = np.frombuffer(b"".join(LAYOUT.pack(row) for row in features), dtype=LAYOUT.dtype)
    falling = np.linspace(1.0, 0.1, len(rows))
    values = np.asarray(scores, dtype=np.float64) if scores is not None else falling
    return CandidateList(
        item_ids=[str(i) for i in range(len(rows))],
        keys=packed["keys"],
        numerics=packed["numerics"],
        scores=values,
        predictions=values[None].astype(np.float32),
        sources=[row.get("source") for row in rows],
    )


def bound(*rules: dict[str, Any]) -> BoundRules:
    return bind_rules(RuleSets.model_validate({"rules": {"default": rules}}), LAYOUT, ("pctr",))["default"]


def ids(arrangement: Arrangement, of: CandidateList) -> list[str]:
    return [of.item_ids[place] for place in arrangement.order]


# The reference: every order of few candidates, checked by the rules' definitions.


def broken(rule: dict[str, Any], rows: Sequence[dict[str, Any]], left: Sequence[int], order: Sequence[int]) -> bool:
    """Whether the last position of `order` breaks a rule."""
    position = len(order)
    values = [values_of(rule, rows[i]) for i in order]
    match rule["type"]:
        case "pin" if "item_id" in rule:
            return (str(order[-1]) == rule["item_id"]) != (position == rule["position"])
        case "pin":
            return position == rule["position"] and not values[-1]
        case "spread":
            return any(v in earlier for v in values[-1] for earlier in values[max(0, position - rule["distance"]) : -1])
        case "quota" if "window" in rule:
            window = values[max(0, position - rule["window"]) :]
            return any(sum(v in other for other in window) > rule["at_most"] for v in values[-1])
        case "quota" if "at_least" in rule:
            needed = min(rule["at_least"], sum(bool(values_of(rule, rows[i])) for i in left), rule["first"])
            missing = needed - sum(map(bool, values[:-1]))
            return position <= rule["first"] and not values[-1] and rule["first"] - position + 1 <= missing
        case "quota":
            at_most = rule.get("at_most", int(rule.get("share", 0) * rule["first"]))
            return position <= rule["first"] and any(sum(v in o for o in values) > at_most for v in values[-1])
        case "interleave":
            source = rule["pattern"][(position - 1) % len(rule["pattern"])]
            remaining = [rows[i]["source"] for i in left if i not in order[:-1]]
            return source in remaining and rows[order[-1]]["source"] != source
    raise AssertionError(rule)


def values_of(rule: dict[str, Any], row: dict[str, Any]) -> tuple[Any, ...]:
    condition = rule.get("when", rule)
    if "feature" not in condition:
        return ()
    value = row.get(condition["feature"])
    values = tuple(dict.fromkeys(value)) if isinstance(value, list) else () if value is None else (value,)
    return tuple(v for v in values if v in condition.get("one_of", values))


def applies(rule: dict[str, Any], rows: Sequence[dict[str, Any]], left: Sequence[int], length: int) -> bool:
    if rule["type"] != "pin":
        return True
    if "item_id" in rule:
        return int(rule["item_id"]) in left
    return rule["position"] <= length and any(values_of(rule, rows[i]) for i in left)


def in_full(rule: dict[str, Any], n: int) -> dict[str, Any]:
    """A minimum over more positions than there are candidates is one over the whole list."""
    return rule | {"first": min(rule["first"], n)} if "at_least" in rule else rule


def by_brute_force(
    rules: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], length: int
) -> tuple[list[int], list[int]]:
    """The best order of `length` candidates, and the places of the rules that cannot hold."""
    left = range(len(rows))
    effective = [(i, in_full(r, len(rows))) for i, r in enumerate(rules) if applies(r, rows, left, length)]
    orders = list(permutations(left, length))
    satisfiable: list[int] = []
    for place, rule in effective:
        holding = [o for o in orders if not any(broken(rule, rows, left, o[:n]) for n in range(1, length + 1))]
        if holding:
            orders = holding
            satisfiable.append(place)
    relaxed = [(place, rule) for place, rule in effective if place not in satisfiable]

    def key(order: tuple[int, ...]) -> list[tuple[tuple[bool, ...], int]]:
        return [(tuple(broken(r, rows, left, order[: n + 1]) for _, r in relaxed), order[n]) for n in range(length)]

    return list(min(orders, key=key)), [place for place, _ in relaxed]


def random_rule(rng: np.random.Generator, n: int) -> dict[str, Any]:
    feature = str(rng.choice(["author", "topics"]))
    some = [str(v) for v in rng.choice(AUTHORS, int(rng.integers(1, 3)), replace=False)]
    at = int(rng.integers(1, n + 2))
    kinds: list[dict[str, Any]] = [
        {"type": "pin", "item_id": str(rng.integers(0, n)), "position": at},
        {"type": "pin", "when": {"feature": feature, "one_of": some}, "position": at},
        {"type": "spread", "feature": feature, "distance": int(rng.integers(2, 4))},
        {"type": "quota", "feature": feature, "at_most": int(rng.integers(1, 3)), "window": int(rng.integers(2, 5))},
        {"type": "quota", "feature": feature, "one_of": some, "at_least": 1 + at // 3, "first": 1 + at // 3 + at},
        {"type": "quota", "feature": feature, "at_most": int(rng.integers(0, 3)), "first": at},
        {"type": "quota", "feature": feature, "share": float(rng.choice([0.3, 0.5])), "first": at},
        {"type": "interleave", "pattern": [str(s) for s in rng.choice(SOURCES, int(rng.integers(2, 4)))]},
    ]
    return kinds[int(rng.integers(len(kinds)))]


def random_case(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Rules that do not contradict one another by themselves, item rows and a length."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    rows = []
    for _ in range(n):
        author = str(rng.choice(AUTHORS)) if rng.random() < 0.9 else None
        topics = [str(t) for t in rng.choice(AUTHORS, int(rng.integers(0, 3)), replace=False)]
        rows.append({"author": author, "topics": topics, "source": str(rng.choice(SOURCES))})
    rules = [random_rule(rng, n) for _ in range(int(rng.integers(1, 5)))]
    while True:
        try:
            RuleSets.model_validate({"rules": {"default": rules}})
            return rules, rows, int(rng.integers(1, n + 1))
        except ValueError:
            rules.pop()


@pytest.mark.parametrize("block", range(8))
def test_the_order_is_the_best_one_that_holds_as_every_order_of_few_candidates_shows(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        rules, rows, length = random_case(seed)
        of = candidates(rows)
        made = arrange(bound(*rules), of, length, NOW_MS)
        order, relaxed = by_brute_force(rules, rows, length)
        assert (made.order.tolist(), list(made.relaxed)) == (order, relaxed), (seed, rules, rows, length)


@pytest.mark.parametrize("seed", range(60))
def test_two_pages_joined_are_one_long_list(seed: int) -> None:
    rules, rows, _ = random_case(1000 + seed)
    of = candidates(rows)
    whole = arrange(bound(*rules), of, len(rows), NOW_MS)
    if whole.relaxed:
        return
    for cut in range(1, len(rows)):
        served = Served().and_then(ids(whole, of)[:cut], {rule: values[:cut] for rule, values in whole.values.items()})
        rest = arrange(bound(*rules), of, len(rows) - cut, NOW_MS, served=served)
        assert ids(whole, of)[:cut] + ids(rest, of) == ids(whole, of)


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


def test_a_long_list_with_few_authors_costs_a_bounded_search_and_names_the_rule() -> None:
    of = candidates([{"author": "a"}] * 190 + [{"author": "b"}] * 10)
    rules = bound(
        {"type": "spread", "feature": "author", "distance": 4},
        {"type": "quota", "feature": "author", "at_most": 3, "window": 4},
        {"type": "pin", "item_id": "199", "position": 2},
    )
    made = arrange(rules, of, 50, NOW_MS)
    assert made.relaxed == (0, 1)
    assert len(set(made.order.tolist())) == 50
    assert ids(made, of)[1] == "199"


def test_a_rule_that_cannot_hold_does_not_take_a_later_one_with_it() -> None:
    rows = [{"author": "a", "topics": ["x"]}] * 140 + [{"author": f"u{i}", "topics": ["x"]} for i in range(60)]
    quota = {"type": "quota", "feature": "topics", "at_most": 20, "first": 50}
    made = arrange(bound(quota, {"type": "spread", "feature": "author", "distance": 2}), candidates(rows), 50, NOW_MS)
    assert made.relaxed == (0,)


def hopeless(n: int) -> tuple[BoundRules, CandidateList]:
    """Rules that no order of `n` candidates meets, which no count shows."""
    rng = np.random.default_rng(1)
    rows = [
        {"author": f"u{rng.integers(30)}", "topics": [str(t) for t in rng.choice(6, 2, replace=False)]}
        for _ in range(n)
    ]
    rules = bound(
        {"type": "quota", "feature": "topics", "at_most": 2, "window": 6},
        {"type": "spread", "feature": "author", "distance": 5},
        {"type": "quota", "feature": "topics", "at_most": 14, "first": 45},
    )
    return rules, candidates(rows)


@pytest.mark.parametrize("n", [200, 2000])
def test_a_hopeless_search_is_bounded_and_lets_others_run_in_between(n: int) -> None:
    rules, of = hopeless(n)
    decided = 0
    at_pauses = [0]
    best = OrderSearch._best

    def counted(search: OrderSearch, failed: set[int]) -> int | None:
        nonlocal decided
        decided += 1
        return best(search, failed)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OrderSearch, "_best", counted)
        steps = arranging(rules, of, 50, NOW_MS)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                arrangement: Arrangement = end.value
                break
            at_pauses.append(decided)
    assert arrangement.relaxed
    assert decided <= Budget.of(n, 50, 3).units // cost_of_position(n // 4) + 10
    # A slice is about 1.5 ms, so about a hundred decisions.
    assert max(after - before for before, after in pairwise([*at_pauses, decided])) <= 1_500 // 15 + 2


@pytest.mark.parametrize("n", [200, 2000])
def test_where_almost_all_candidates_are_barred_at_every_position_no_rule_is_relaxed(n: int) -> None:
    """The first 100 less than all may not stand in the first 50 positions."""
    rows = [{"author": f"u{i}", "topics": ["x"]} for i in range(n - 100)]
    rows += [{"author": f"v{i}", "topics": ["y"]} for i in range(100)]
    for quota in (
        {"type": "quota", "feature": "topics", "one_of": ["x"], "at_most": 0, "first": 50},
        {"type": "quota", "feature": "topics", "one_of": ["x"], "at_most": 1, "first": 50},
        {"type": "quota", "feature": "topics", "one_of": ["y"], "at_least": 50, "first": 50},
    ):
        made = arrange(
            bound(quota, {"type": "spread", "feature": "author", "distance": 3}), candidates(rows), 50, NOW_MS
        )
        assert made.relaxed == ()
        allowed = quota.get("at_most", 0)
        assert made.order.tolist() == [*range(allowed), *range(n - 100, n - 50 - allowed)]


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
