"""Arranges the candidates of one request by the rules of its scene: filter, boost, diversify, then find the best order
that holds.

Rules on positions hold exactly, or the result names those that were relaxed. They are relaxed from the end of the
operator's list: a rule is in force if it can hold together with those in force before it. A relaxed rule is still met
at each position where these leave a choice.
"""

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList
from service.rules.definition.rules import Boost, Diversity
from service.rules.order.diversity import by_score, diversified
from service.rules.order.filters import filtered
from service.rules.order.greedy import CHECKS_BEFORE_PAUSE, Counted, barring_rules, greedy
from service.rules.order.positional import Positional, positional_rules
from service.rules.order.search import MOST_UNITS, Budget, OrderSearch, cost_of_pass
from service.rules.order.served import Served
from service.store.shown import Exposures


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Positions of the candidates in their order, int64 `[k]`, and their boosted scores `[C]`; the relaxed rules, the
    other rules that had an effect, and what filters removed.

    `values` has for each rule the value that it counts at every position, so that a next page can continue; `remaining`
    candidates are left for it.
    """

    order: np.ndarray
    scores: np.ndarray
    relaxed: tuple[int, ...] = ()
    acted: frozenset[int] = frozenset()
    removed: dict[int, int] = field(default_factory=dict)
    values: Mapping[int, Sequence[Hashable]] = field(default_factory=dict)
    remaining: int = 0


def arrange(
    bound: BoundRules,
    candidates: CandidateList,
    length: int,
    now_ms: int,
    exposures: Exposures | None = None,
    served: Served | None = None,
) -> Arrangement:
    """The first `length` candidates of the list, or of the page after `served`."""
    steps = arranging(bound, candidates, length, now_ms, exposures, served)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            arrangement: Arrangement = end.value
            return arrangement


def arranging(
    bound: BoundRules,
    candidates: CandidateList,
    length: int,
    now_ms: int,
    exposures: Exposures | None = None,
    served: Served | None = None,
    most_units: int = MOST_UNITS,
) -> Generator[None, None, Arrangement]:
    """Arrange as `arrange` does, but yield after every one or two milliseconds, so that other requests can run.

    The searches cost no more than `most_units`, about as many microseconds.
    """
    served = served or Served()
    filtering = filtered(bound, candidates, exposures or Exposures(), now_ms)
    acted = {place for place, count in filtering.removed.items() if count}
    # Change the scores, then the order of preference.
    scores = candidates.scores
    for place, rule in enumerate(bound.rules):
        if isinstance(rule, Boost):
            boosted = bound.boosted(place, candidates, scores)
            if not np.array_equal(boosted, scores, equal_nan=True):
                acted.add(place)
            scores = boosted
    # Earlier pages are part of the list that is diversified, even if a filter has removed their items since.
    shown = set(served.item_ids)
    is_shown = np.fromiter((item_id in shown for item_id in candidates.item_ids), dtype=bool, count=len(candidates))
    listed = np.flatnonzero(filtering.stays | is_shown)
    preference: list[int] = listed[by_score(scores[listed], len(listed))].tolist()
    for place, rule in enumerate(bound.rules):
        if isinstance(rule, Diversity):
            vectors = bound.vectors(rule, candidates)[listed]
            chosen = yield from diversified(scores[listed], vectors, rule.method, rule.weight, rule.depth, rule.window)
            diverse: list[int] = listed[chosen].tolist()
            if diverse != preference:
                acted.add(place)
            preference = diverse
    left = [place for place in preference if not is_shown[place]] if shown else preference
    length = min(length, len(left))
    # Find the best order that holds.
    positional = yield from positional_rules(bound, candidates, left, length, served)
    order, relaxed, barring = yield from _ordered(positional, left, length, served, most_units)
    values = {p.rule: [p.values[place] for place in order] for p in positional}
    every_relaxed = tuple(sorted((*filtering.relaxed, *relaxed)))
    remaining = len(left) - length
    acted = (acted | barring).difference(relaxed)
    return Arrangement(
        np.array(order, dtype=np.int64), scores, every_relaxed, frozenset(acted), filtering.removed, values, remaining
    )


def _ordered(
    positional: Sequence[Positional], left: Sequence[int], length: int, served: Served, most_units: int
) -> Generator[None, None, tuple[list[int], tuple[int, ...], set[int]]]:
    """Return the order, the rules that it relaxes, and those that barred a better candidate at some position."""
    if not positional:
        return list(left[:length]), (), set()
    # Usually all rules can hold, and the greedy order has no dead end.
    counted = yield from _counted(positional, served)
    first_try = yield from greedy(left, counted, length)
    if first_try is not None:
        order, barring = first_try
        return order, (), barring
    budget = Budget.of(len(left), length, len(positional), most_units)
    budget.spend(cost_of_pass(length, len(positional)))
    possible = [p for p in positional if p.can_hold()]
    if len(possible) == len(positional):
        exact = yield from _search(positional, (), left, length, served, budget, parts=3)
        if exact is not None:
            counted = yield from _counted(positional, served)
            barring = yield from barring_rules(left, exact, counted)
            return exact, (), barring
    # Keep each rule that can hold together with those before it.
    satisfiable: list[Positional] = []
    best = list(left[:length])
    for done, one in enumerate(possible):
        if budget.must_pause():
            yield
        together = [*satisfiable, one]
        budget.spend(cost_of_pass(length, len(together)))
        counted = yield from _counted(together, served)
        first_try = yield from greedy(left, counted, length)
        if first_try is not None:
            exact = first_try[0]
        else:
            parts = len(possible) - done + 1
            exact = yield from _search(together, (), left, length, served, budget, parts)
        if exact is not None:
            satisfiable.append(one)
            best = exact
    # These rules have an order; look for one that also meets the others where it can.
    relaxed = [p for p in positional if p not in satisfiable]
    exact = yield from _search(satisfiable, relaxed, left, length, served, budget, parts=1)
    order = exact or best
    counted = yield from _counted(satisfiable, served)
    barring = yield from barring_rules(left, order, counted)
    return order, tuple(p.rule for p in relaxed), barring


def _search(
    hard: Sequence[Positional],
    soft: Sequence[Positional],
    left: Sequence[int],
    length: int,
    served: Served,
    budget: Budget,
    parts: int,
) -> Generator[None, None, list[int] | None]:
    """Search with one of `parts` equal parts of the budget."""
    memory = max((p.memory for p in (*hard, *soft)), default=0)
    counted_hard = yield from _counted(hard, served)
    counted_soft = yield from _counted(soft, served)
    search = yield from OrderSearch.of(left, counted_hard, counted_soft, memory)
    order = yield from search.run(length, budget, parts)
    return order


def _counted(positional: Sequence[Positional], served: Served) -> Generator[None, None, list[Counted]]:
    """Return the constraints of rules, advanced over the positions of earlier pages, with their values.

    Yields after each slice of its work.
    """
    counted = []
    until_pause = CHECKS_BEFORE_PAUSE
    for one in positional:
        constraint = one.make()
        for value in served.of_rule(one.rule):
            constraint.place(value)
        counted.append(Counted(constraint, one.values))
        until_pause -= len(served.item_ids)
        if until_pause <= 0:
            until_pause = CHECKS_BEFORE_PAUSE
            yield
    return counted
