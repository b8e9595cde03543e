"""Tests that rules hold exactly or are named, and that the best order is found, at a bounded cost."""

import pickle
from collections.abc import Generator, Sequence
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from rule_cases import NOW_MS, bound, candidates, ids, random_case

from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList
from service.rules.order import arrange as arrange_module
from service.rules.order.arrange import Arrangement, arrange, arranging
from service.rules.order.constraints import AtMostInFirst, AtMostInWindow, NoneInFirst, PinnedItem
from service.rules.order.greedy import CHECKS_BEFORE_PAUSE
from service.rules.order.search import MOST_UNITS, Budget, OrderSearch, cost_of_position
from service.rules.order.served import Served

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


def test_other_requests_run_between_the_passes_of_a_long_list_with_many_rules() -> None:
    n = 2000
    of = candidates([{"author": f"u{i}", "topics": ["x"]} for i in range(n)])
    spreads = [{"type": "spread", "feature": "author", "distance": 2 + i} for i in range(10)]
    rules = bound({"type": "spread", "feature": "topics", "distance": 2}, *spreads)
    passes = 0
    at_pauses = [0]
    first_choice = arrange_module.greedy

    def counted(*arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return first_choice(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arrange_module, "greedy", counted)
        at_pauses.extend(passes for _ in arranging(rules, of, n, NOW_MS))
    assert passes == 11
    assert max(after - before for before, after in pairwise([*at_pauses, passes])) == 1


class CountedCalls:
    """Counts the constraints that are checked and placed, and how many of them at each pause of an arrangement."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.calls = 0
        for kind in (AtMostInWindow, AtMostInFirst, NoneInFirst, PinnedItem):
            for name in ("allows", "place"):
                patched.setattr(kind, name, self._counting(getattr(kind, name)))

    def _counting(self, called: Any) -> Any:
        def counted(constraint: Any, value: Any) -> Any:
            self.calls += 1
            return called(constraint, value)

        return counted

    def most_between_pauses(self, steps: Generator[None, None, Arrangement]) -> int:
        at_pauses = [0, *(self.calls for _ in steps)]
        return max(after - before for before, after in pairwise([*at_pauses, self.calls]))


@pytest.mark.parametrize("n", [1000, 2000])
@pytest.mark.parametrize("served", [False, True])
def test_other_requests_run_within_one_greedy_pass_of_many_rules(n: int, served: bool) -> None:
    of = candidates([{"author": f"u{i}"} for i in range(n)])
    spreads = [{"type": "spread", "feature": "author", "distance": 2 + i} for i in range(11)]
    before = Served([f"old{i}" for i in range(1000)], {}) if served else None
    if before is not None:
        before = Served(before.item_ids, {rule: [(-1 - i,) for i in range(1000)] for rule in range(11)})
    with pytest.MonkeyPatch.context() as patched:
        counted = CountedCalls(patched)
        most = counted.most_between_pauses(arranging(bound(*spreads), of, n, NOW_MS, served=before))
    assert counted.calls >= 22 * n + 11_000 * served
    assert most <= 2 * CHECKS_BEFORE_PAUSE


def test_other_requests_run_while_the_barring_rules_of_a_long_list_are_sought() -> None:
    n = 2000
    of = candidates([{"author": f"u{i // 2}"} for i in range(n)])
    rules = bound(
        *({"type": "spread", "feature": "author", "distance": 2 + i} for i in range(5)),
        {"type": "pin", "item_id": "0", "position": 900},
    )
    with pytest.MonkeyPatch.context() as patched:
        counted = CountedCalls(patched)
        most = counted.most_between_pauses(arranging(rules, of, 1000, NOW_MS))
    assert most <= 2 * CHECKS_BEFORE_PAUSE


@pytest.mark.parametrize("rules", [10, 49])
def test_other_requests_run_within_a_search_of_many_rules(rules: int) -> None:
    """Each search sets up its groups, and asks every rule at every decision."""
    n = 2000
    of = candidates([{"author": f"u{i // 400}"} for i in range(n)])
    spreads = [{"type": "spread", "feature": "author", "distance": 2 + i} for i in range(rules)]
    asked = 0
    at_pauses = [0]
    barred = AtMostInWindow.barred_members

    def counted(constraint: AtMostInWindow) -> Any:
        nonlocal asked
        asked += 1
        return barred(constraint)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AtMostInWindow, "barred_members", counted)
        at_pauses.extend(asked for _ in arranging(bound(*spreads), of, 1000, NOW_MS))
    assert asked > 1000
    # A slice has as many decisions as four rules could ask in it, or one.
    assert max(after - before for before, after in pairwise([*at_pauses, asked])) <= 4 * (1_500 // 15 + 2) + rules


def test_a_budget_is_bounded_however_long_the_list_is() -> None:
    assert Budget.of(2000, 50, 4).units < MOST_UNITS
    assert Budget.of(100_000, 100_000, 50).units == MOST_UNITS


def remembered(n: int) -> set[int]:
    """The sizes of the states that a hopeless search of `n` candidates remembers."""
    rules, of = hopeless(n)
    sizes = set()
    state_of = OrderSearch._state

    def measured(search: OrderSearch, groups: Sequence[int]) -> Any:
        state = state_of(search, groups)
        sizes.add(len(pickle.dumps(state)))
        return state

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OrderSearch, "_state", measured)
        arrange(rules, of, 50, NOW_MS)
    return sizes


def test_a_remembered_state_takes_as_little_memory_in_a_long_list_as_in_a_short_one() -> None:
    (size,) = remembered(200)
    assert remembered(2000) == {size}


@pytest.mark.parametrize("n", [200, 2000])
def test_where_almost_all_candidates_are_barred_at_every_position_no_rule_is_relaxed(n: int) -> None:
    """Only the last 100 candidates may stand in the first 50 positions."""
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
