"""Arranges the candidates of one request by the rules of its scene: filter, boost, diversify, then find the best order
that holds.

Rules on positions hold exactly, or the result names those that were relaxed. They are relaxed from the end of the
operator's list: a rule is kept if it can hold together with all kept rules before it. A relaxed rule is still met at
each position where the kept ones leave a choice.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList, Exposures
from service.rules.definition.rules import Boost, Diversity, Interleave, Pin, Quota, Rule, Spread
from service.rules.order.constraints import (
    AtLeastInFirst,
    AtMostInFirst,
    AtMostInWindow,
    Constraint,
    InTurn,
    PinnedCondition,
    PinnedItem,
)
from service.rules.order.diversity import by_score, diversified
from service.rules.order.filters import filtered
from service.rules.order.search import Budget, OrderSearch


@dataclass(frozen=True, eq=False)
class Served:
    """The positions of earlier pages: for every position the value that each rule counts, by the rule's place in the
    list.
    """

    item_ids: tuple[str, ...] = ()
    values: tuple[dict[int, Hashable], ...] = ()


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Places of the candidates in their order, int64 `[k]`, with their boosted scores `[C]`; which rules were relaxed
    and what filters removed.

    `values` holds for every position what each rule counts, so that a next page can go on from here.
    """

    order: np.ndarray
    scores: np.ndarray
    relaxed: tuple[int, ...] = ()
    removed: dict[int, int] = field(default_factory=dict)
    values: tuple[dict[int, Hashable], ...] = ()


@dataclass(frozen=True, eq=False)
class _Positional:
    """One rule on positions, before a search: how its constraint is made, and the value of each candidate for it."""

    rule: int
    make: Callable[[], Constraint]
    values: Sequence[Hashable]
    memory: int = 0
    fits: bool = True


def arrange(
    bound: BoundRules,
    candidates: CandidateList,
    length: int,
    now_ms: int,
    exposures: Exposures | None = None,
    served: Served | None = None,
) -> Arrangement:
    """The first `length` candidates of the list, or of the page after `served`."""
    served = served or Served()
    filtering = filtered(bound, candidates, exposures or Exposures(), now_ms)
    # Change the scores, then the order of preference.
    scores = candidates.scores
    for place, rule in enumerate(bound.rules):
        if isinstance(rule, Boost):
            scores = bound.boosted(place, candidates, scores)
    preference = _preference(bound, candidates, scores)
    shown = set(served.item_ids)
    stays = filtering.stays.tolist()
    left = [place for place in preference if stays[place] and candidates.item_ids[place] not in shown]
    length = min(length, len(left))
    # Find the best order that holds.
    positional = _positional(bound, candidates, left, length, served)
    order, relaxed = _ordered(positional, left, length, served)
    values = tuple({p.rule: p.values[place] for p in positional} for place in order)
    every_relaxed = tuple(sorted((*filtering.relaxed, *relaxed)))
    return Arrangement(np.array(order, dtype=np.int64), scores, every_relaxed, filtering.removed, values)


def _preference(bound: BoundRules, candidates: CandidateList, scores: np.ndarray) -> list[int]:
    """All places, most preferred first: by score, or as a diversity rule chooses them."""
    for rule in bound.rules:
        if isinstance(rule, Diversity):
            vectors = bound.vectors(rule, candidates)
            order: list[int] = diversified(scores, vectors, rule.method, rule.weight, rule.depth, rule.window).tolist()
            return order
    return by_score(scores, len(scores))


def _ordered(
    positional: Sequence[_Positional], left: Sequence[int], length: int, served: Served
) -> tuple[list[int], tuple[int, ...]]:
    """The order, and the places of the rules that it relaxes."""
    if not positional:
        return list(left[:length]), ()
    budget = Budget.of(len(left))
    order = None
    if all(p.fits for p in positional):
        order = _search(positional, (), left, length, served, budget.part())
    if order is not None:
        return order, ()
    # Keep each rule that can hold together with those kept before it.
    satisfiable: list[_Positional] = []
    best = list(left[:length])
    for one in positional:
        if not one.fits:
            continue
        order = _search([*satisfiable, one], (), left, length, served, budget.part())
        if order is not None:
            satisfiable.append(one)
            best = order
    # The kept rules have an order; look for one that also meets the others where it can.
    relaxed = [p for p in positional if p not in satisfiable]
    order = _search(satisfiable, relaxed, left, length, served, Budget.of(len(left)))
    return order or best, tuple(p.rule for p in relaxed)


def _search(
    hard: Sequence[_Positional],
    soft: Sequence[_Positional],
    left: Sequence[int],
    length: int,
    served: Served,
    budget: Budget,
) -> list[int] | None:
    made_hard = [_after(p, served) for p in hard]
    made_soft = [_after(p, served) for p in soft]
    memory = max((p.memory for p in (*hard, *soft)), default=0)
    search = OrderSearch(left, made_hard, [p.values for p in hard], made_soft, [p.values for p in soft], memory)
    return search.run(length, budget)


def _after(positional: _Positional, served: Served) -> Constraint:
    """A constraint that has seen the positions of earlier pages."""
    constraint = positional.make()
    for values in served.values:
        constraint.place(values[positional.rule])
    return constraint


def _positional(
    bound: BoundRules, candidates: CandidateList, left: Sequence[int], length: int, served: Served
) -> list[_Positional]:
    """The rules on positions that mean anything for these candidates."""
    positional = []
    for place, rule in enumerate(bound.rules):
        before = [values[place] for values in served.values if place in values]
        one = _of_rule(bound, place, rule, candidates, left, length, before)
        if one is not None:
            positional.append(one)
    return positional


def _of_rule(
    bound: BoundRules,
    place: int,
    rule: Rule,
    candidates: CandidateList,
    left: Sequence[int],
    length: int,
    before: Sequence[Hashable],
) -> _Positional | None:
    end = len(before) + length
    match rule:
        case Pin():
            return _pin(bound, place, rule, candidates, left, end)
        case Spread():
            values = bound.values_of(rule.feature, None, candidates)
            return _window(place, 1, rule.distance, values, left, length)
        case Quota(window=int(window), at_most=int(at_most)):
            values = bound.values_of(rule.feature, rule.one_of, candidates)
            return _window(place, at_most, window, values, left, length)
        case Quota(at_least=int(at_least), first=int(first)):
            counted = [bool(value) for value in bound.values_of(rule.feature, rule.one_of, candidates)]
            matches = sum(map(bool, before)) + sum(counted[i] for i in left)
            return _Positional(place, lambda: AtLeastInFirst(place, at_least, min(first, end), matches), counted)
        case Quota(first=int(first)):
            at_most = rule.at_most if rule.at_most is not None else int((rule.share or 0.0) * first)
            values = bound.values_of(rule.feature, rule.one_of, candidates)
            counted_positions = max(0, min(first, end) - len(before))
            fits = _could_fill(map(values.__getitem__, left), at_most, first, counted_positions)
            return _Positional(place, lambda: AtMostInFirst(place, at_most, first), values, fits=fits)
        case Interleave():
            sources: Sequence[str | None] = candidates.sources or [None] * len(candidates)
            every = [*before, *(sources[i] for i in left)]
            return _Positional(place, lambda: InTurn(place, rule.pattern, every), sources)  # type: ignore[arg-type]
    return None


def _pin(
    bound: BoundRules, place: int, rule: Pin, candidates: CandidateList, left: Sequence[int], end: int
) -> _Positional | None:
    if rule.when is not None:
        matching = bound.matches(rule.when, candidates).tolist()
        applies = any(matching[i] for i in left) and rule.position <= end
        return _Positional(place, lambda: PinnedCondition(place, rule.position), matching) if applies else None
    pinned = [item_id == rule.item_id for item_id in candidates.item_ids]
    if not any(pinned[i] for i in left):
        return None
    return _Positional(place, lambda: PinnedItem(place, rule.position), pinned)


def _window(
    place: int, at_most: int, window: int, values: list[tuple[int, ...]], left: Sequence[int], length: int
) -> _Positional:
    fits = _could_fill(map(values.__getitem__, left), at_most, window, length)
    return _Positional(place, lambda: AtMostInWindow(place, at_most, window), values, window - 1, fits)


def _could_fill(values: Iterable[tuple[int, ...]], at_most: int, window: int, length: int) -> bool:
    """Whether there are enough different values for `length` positions: a necessary condition that spares a hopeless
    search.
    """
    counts = Counter(values)
    if any(len(value) > 1 for value in counts):
        return True
    free = counts.pop((), 0)
    most = at_most * (length // window) + min(at_most, length % window)
    return free + sum(min(count, most) for count in counts.values()) >= length


def memory_of(rules: Sequence[Rule]) -> int:
    """How many positions of earlier pages the rules look back on."""
    windows = [rule.distance for rule in rules if isinstance(rule, Spread)]
    windows += [rule.window for rule in rules if isinstance(rule, Quota) and rule.window is not None]
    return ceil(max(windows, default=1))
