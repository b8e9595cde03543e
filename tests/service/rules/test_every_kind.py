"""Tests every kind of rule, alone and in pairs, against every order of up to eight candidates.

The reference knows the rules' definitions only. It filters and scores the candidates, arranges the preference, and
looks at every order that is left: 40,320 of eight candidates.
"""

from collections.abc import Sequence
from itertools import combinations, combinations_with_replacement, permutations
from math import factorial
from typing import Any

import numpy as np
import pytest
from naive_diversity import naive_dpp, naive_mmr, naive_ssd, unit
from rule_cases import AUTHORS, NOW_MS, SOURCES, VECTOR, bound, candidates

from service.rules.definition.rule_sets import RuleSets
from service.rules.order.arrange import arrange
from service.rules.order.diversity import dpp
from service.store.shown import DAY_MS, Exposures, shown_key

Rule = dict[str, Any]
Rows = list[dict[str, Any]]
KINDS = (
    "block ids",
    "block when",
    "allow",
    "seen",
    "cap",
    "boost",
    "mmr",
    "dpp",
    "ssd",
    "pin item",
    "pin when",
    "at most in window",
    "at most in first",
    "share",
    "at least",
    "spread",
    "interleave",
)
DIVERSITY = {"mmr", "dpp", "ssd"}  # a document has one of them at most
PAIRS = [p for p in combinations_with_replacement(KINDS, 2) if not DIVERSITY.issuperset(p) and p != ("interleave",) * 2]


def rule_of(kind: str, rng: np.random.Generator, n: int) -> Rule:
    """A random rule of this kind."""
    feature = str(rng.choice(["author", "topics"]))
    some = [str(v) for v in rng.choice(AUTHORS, int(rng.integers(1, 3)), replace=False)]
    at = int(rng.integers(1, n + 1))
    weight = float(rng.choice([0.3, 0.7, 0.9]))
    item_ids = [str(i) for i in rng.choice(n, min(n, int(rng.integers(1, 3))), replace=False)]
    rules: dict[str, Rule] = {
        "block ids": {"type": "block", "item_ids": item_ids},
        "block when": {"type": "block", "when": {"feature": "price", "below": float(rng.integers(0, 2))}},
        "allow": {"type": "allow", "when": {"feature": feature, "one_of": some}},
        "seen": {"type": "seen", "within_days": 2},
        "cap": {"type": "cap", "at_most": int(rng.integers(1, 3)), "within_days": 2},
        "boost": {"type": "boost", "formula": "score + 0.2 * price", "when": {"feature": feature, "one_of": some}},
        "mmr": {"type": "diversity", "method": "mmr", "weight": weight, "vector": {"output": VECTOR}, "depth": 4},
        "dpp": {"type": "diversity", "method": "dpp", "weight": weight, "vector": {"output": VECTOR}, "depth": 4},
        "ssd": {
            "type": "diversity",
            "method": "ssd",
            "weight": weight,
            "vector": {"output": VECTOR},
            "depth": 4,
            "window": 3,
        },
        "pin item": {"type": "pin", "item_id": str(rng.integers(0, n)), "position": at},
        "pin when": {"type": "pin", "when": {"feature": feature, "one_of": some}, "position": at},
        "at most in window": {
            "type": "quota",
            "feature": feature,
            "at_most": int(rng.integers(1, 3)),
            "window": int(rng.integers(2, 5)),
        },
        "at most in first": {"type": "quota", "feature": feature, "at_most": int(rng.integers(0, 3)), "first": at},
        "share": {"type": "quota", "feature": feature, "share": float(rng.choice([0.3, 0.5])), "first": at},
        "at least": {"type": "quota", "feature": feature, "one_of": some, "at_least": 1 + at // 3, "first": at + 1},
        "spread": {"type": "spread", "feature": feature, "distance": int(rng.integers(2, 4))},
        "interleave": {"type": "interleave", "pattern": [str(s) for s in rng.choice(SOURCES, 2)]},
    }
    return rules[kind]


def case_of(kinds: Sequence[str], n: int, seed: int) -> tuple[list[Rule], Rows, np.ndarray, Exposures]:
    """Rules of these kinds that do not contradict one another, item rows, item vectors and what the user saw."""
    rng = np.random.default_rng([n, seed])
    rows: Rows = []
    for _ in range(n):
        author = str(rng.choice(AUTHORS)) if rng.random() < 0.9 else None
        topics = [str(t) for t in rng.choice(AUTHORS, int(rng.integers(0, 3)), replace=False)]
        price = float(rng.integers(-1, 3))
        rows.append({"author": author, "topics": topics, "price": price, "source": str(rng.choice(SOURCES))})
    seen = rng.integers(0, n, 5)
    exposures = Exposures(
        np.array([shown_key(str(i)) for i in seen]),
        np.array([NOW_MS - int(days * DAY_MS) for days in (0.5, 1, 1.5, 2.5, 3)]),
        np.array([False, False, True, False, False]),
    )
    vectors = rng.normal(size=(n, 10)).astype(np.float32)
    while True:
        rules = [rule_of(kind, rng, n) for kind in kinds]
        try:
            RuleSets.model_validate({"rules": {"default": rules}})
        except ValueError:
            continue
        return rules, rows, vectors, exposures


# The reference.


def values_of(rule: Rule, row: dict[str, Any]) -> set[Any]:
    condition = rule.get("when", rule)
    value = row.get(condition["feature"])
    values = set(value) if isinstance(value, list) else set() if value is None else {value}
    return values & set(condition["one_of"]) if "one_of" in condition else values


def matches(rule: Rule, row: dict[str, Any]) -> bool:
    if "below" in rule.get("when", {}):
        return bool(row["price"] < rule["when"]["below"])
    return bool(values_of(rule, row))


def filtered_by_hand(rules: Sequence[Rule], rows: Rows, exposures: Exposures) -> tuple[list[int], list[int]]:
    """The candidates that the filters leave, and the filters that are relaxed."""
    left = list(range(len(rows)))
    relaxed = []
    entries = zip(exposures.keys, exposures.times_ms, ~exposures.acted, strict=True)
    recent = [(key, shown) for key, time, shown in entries if time >= NOW_MS - 2 * DAY_MS]
    for place, rule in enumerate(rules):
        if rule["type"] in ("block", "allow"):
            named = {
                i for i in left if str(i) in rule.get("item_ids", ()) or ("when" in rule and matches(rule, rows[i]))
            }
            left = [i for i in left if (i in named) == (rule["type"] == "allow")]
        elif rule["type"] in ("seen", "cap"):
            of_item = {i: [shown for key, shown in recent if key == shown_key(str(i))] for i in left}
            most = rule.get("at_most")
            barred = {i for i, times in of_item.items() if (len(times) if most is None else sum(times) >= most)}
            if left and barred == set(left):
                relaxed.append(place)
            else:
                left = [i for i in left if i not in barred]
    return left, relaxed


def preferred(rules: Sequence[Rule], rows: Rows, vectors: np.ndarray, left: list[int]) -> list[int]:
    """The candidates that are left in their order of preference: by boosted score, then as diversity chooses."""
    scores = np.linspace(1.0, 0.1, len(rows))
    for rule in rules:
        if rule["type"] == "boost":
            boosted = [score + 0.2 * row["price"] for score, row in zip(scores, rows, strict=True)]
            scores = np.array([b if matches(rule, r) else s for b, r, s in zip(boosted, rows, scores, strict=True)])
    preference = sorted(left, key=lambda i: -scores[i])
    for rule in rules:
        if rule["type"] == "diversity" and left:
            of_left = scores[left]
            own = vectors[left].astype(np.float64)
            depth = min(rule["depth"], len(left))
            more = (rule["window"],) if rule["method"] == "ssd" else ()
            naive: Any = {"mmr": naive_mmr, "dpp": naive_dpp, "ssd": naive_ssd}[rule["method"]]
            first = [left[i] for i in naive(of_left, own, rule["weight"], depth, *more)] if len(left) > 1 else left
            preference = [*first, *(i for i in sorted(left, key=lambda i: -scores[i]) if i not in first)]
    return preference


def broken(rule: Rule, rows: Rows, left: Sequence[int], orders: np.ndarray) -> np.ndarray:
    """Whether each position of each order breaks a rule, bool `[orders, length]`."""
    count, length = orders.shape
    result = np.zeros((count, length), dtype=bool)
    positions = np.arange(1, length + 1)
    match rule["type"]:
        case "pin" if "item_id" in rule:
            if int(rule["item_id"]) in left:
                result = (orders == int(rule["item_id"])) != (positions == rule["position"])
        case "pin":
            match_C = np.array([matches(rule, row) for row in rows])
            if rule["position"] <= length and any(match_C[i] for i in left):
                result[:, rule["position"] - 1] = ~match_C[orders[:, rule["position"] - 1]]
        case "interleave":
            for place in range(length):
                source = rule["pattern"][place % len(rule["pattern"])]
                is_source = np.array([row["source"] == source for row in rows])
                remaining = sum(is_source[i] for i in left) - is_source[orders[:, :place]].sum(1)
                result[:, place] = (remaining > 0) & ~is_source[orders[:, place]]
        case "quota" if "at_least" in rule:
            match_C = np.array([matches(rule, row) for row in rows])
            first = min(rule["first"], len(left))
            needed = min(rule["at_least"], sum(match_C[i] for i in left), first)
            is_match = match_C[orders]
            before = is_match.cumsum(1) - is_match
            hopeless = first - positions + 1 <= needed - before
            result = (positions <= first) & ~is_match & hopeless
        case _:
            distance = rule.get("distance")
            at_most = 1 if distance else rule.get("at_most", int(rule.get("share", 0) * rule.get("first", 0)))
            window = distance or rule.get("window")
            for value in {v for row in rows for v in values_of(rule, row)}:
                has = np.array([value in values_of(rule, row) for row in rows])[orders]
                counts = has.cumsum(1)
                if window is not None:
                    earlier = np.zeros_like(counts)
                    earlier[:, window:] = counts[:, :-window]
                    result |= has & (counts - earlier > at_most)
                else:
                    result |= has & (counts > at_most) & (positions <= rule["first"])
    return result


def by_brute_force(
    rules: Sequence[Rule], rows: Rows, vectors: np.ndarray, exposures: Exposures, length: int
) -> tuple[list[int], list[int]]:
    """The best order and the relaxed rules."""
    left, relaxed = filtered_by_hand(rules, rows, exposures)
    preference = preferred(rules, rows, vectors, left)
    length = min(length, len(left))
    if not length:
        return [], relaxed
    # All orders, by their first candidate's place in the preference, then by their second's, and so on.
    orders = np.array(list(permutations(preference, length)), dtype=np.int64).reshape(-1, length)
    of_relaxed = []
    for place, rule in enumerate(rules):
        if rule["type"] not in ("pin", "quota", "spread", "interleave"):
            continue
        breaks = broken(rule, rows, left, orders)
        holding = ~breaks.any(1)
        if holding.any():
            orders = orders[holding]
            of_relaxed = [each[holding] for each in of_relaxed]
        else:
            relaxed.append(place)
            of_relaxed.append(breaks)
    # At each position: the earliest relaxed rule that is met decides, then the preference.
    rank = {candidate: i for i, candidate in enumerate(preference)}
    for position in range(length):
        for place in range(len(of_relaxed)):
            breaks = of_relaxed[place][:, position]
            best = breaks == breaks.min()
            orders = orders[best]
            of_relaxed = [each[best] for each in of_relaxed]
        ranks = np.array([rank[candidate] for candidate in orders[:, position]])
        best = ranks == ranks.min(initial=len(rows))
        orders = orders[best]
        of_relaxed = [each[best] for each in of_relaxed]
    return orders[0].tolist(), sorted(relaxed)


def compare(kinds: Sequence[str], n: int, seed: int) -> None:
    rules, rows, vectors, exposures = case_of(kinds, n, seed)
    length = n if seed % 2 else max(1, n - 2)
    made = arrange(bound(*rules), candidates(rows, vectors=vectors), length, NOW_MS, exposures)
    order, relaxed = by_brute_force(rules, rows, vectors, exposures, length)
    assert (made.order.tolist(), list(made.relaxed)) == (order, relaxed), (rules, rows, n, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_one_rule_of_every_kind_gives_the_best_order_of_up_to_eight_candidates(kind: str) -> None:
    for n in range(1, 9):
        for seed in (0, 1):
            compare([kind], n, seed)


@pytest.mark.parametrize("block", range(17))
def test_every_pair_of_kinds_gives_the_best_order_in_both_orders_of_the_pair(block: int) -> None:
    for place, pair in enumerate(PAIRS[block::17]):
        compare(pair, 7, 2 * place)
        compare(pair[::-1], 7, 2 * place + 1)
        compare(pair, 3 + place % 4, 1)


@pytest.mark.parametrize("block", range(9))
def test_a_pair_of_kinds_gives_the_best_order_of_eight_candidates(block: int) -> None:
    for place, pair in enumerate(PAIRS[block::9]):
        compare(pair, 8, 2 * place)


@pytest.mark.parametrize("weight", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_greedy_dpp_is_within_its_bound_of_the_best_of_all_sets(k: int, weight: float) -> None:
    """The determinant of the greedy choice is at least that of the best set over (k!)^2 (Civril and Magdon-Ismail,
    Theoretical Computer Science 2009, theorem 11: the volume within k!).
    """
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = rng.random(8)
        # Vectors of unlike length in few directions: near-dependent sets are where greedy loses.
        vectors = rng.normal(size=(8, 4)) * rng.random((1, 4))
        span = (scores - scores.min()) / (scores.max() - scores.min())
        quality = np.exp((1 - weight) / weight * span / 2)
        rows = quality[:, None] * unit(vectors)
        kernel = rows @ rows.T

        def volume(places: Sequence[int], kernel: np.ndarray = kernel) -> float:
            return float(np.linalg.det(kernel[np.ix_(places, places)]))

        best = max(volume(places) for places in combinations(range(8), k))
        chosen = list(dpp(scores, vectors, weight, k))
        assert len(chosen) == k
        assert volume(chosen) >= best / factorial(k) ** 2 * (1 - 1e-9)
