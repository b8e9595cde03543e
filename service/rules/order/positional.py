"""Turns the rules on positions into constraints for the candidates of one list."""

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList
from service.rules.definition.rules import Interleave, Pin, Quota, Rule, Spread
from service.rules.order.constraints import (
    AtLeastInFirst,
    AtMostInFirst,
    AtMostInWindow,
    Constraint,
    InTurn,
    NoneInFirst,
    PinnedCondition,
    PinnedItem,
)
from service.rules.order.served import Served

_VALUES_BEFORE_PAUSE = 15_000  # of one candidate for one rule, about a millisecond and a half


def _always() -> bool:
    return True


@dataclass(frozen=True, eq=False)
class Positional:
    """One rule on positions, before a search: a function that makes its constraint, and the value of each candidate.

    `can_hold` is a necessary condition that avoids hopeless searches. `memory` is the number of last positions that the
    rule reads.
    """

    rule: int
    make: Callable[[], Constraint]
    values: Sequence[Hashable]
    memory: int = 0
    can_hold: Callable[[], bool] = _always


def positional_rules(
    bound: BoundRules, candidates: CandidateList, left: Sequence[int], length: int, served: Served
) -> Generator[None, None, list[Positional]]:
    """Return the rules on positions that apply to these candidates, in the operator's order. Yields after each slice of
    its work.
    """
    positional = []
    until_pause = _VALUES_BEFORE_PAUSE
    for place, rule in enumerate(bound.rules):
        one = _of_rule(bound, place, rule, candidates, left, length, served.of_rule(place))
        if one is None:
            continue
        positional.append(one)
        until_pause -= len(candidates)
        if until_pause <= 0:
            until_pause = _VALUES_BEFORE_PAUSE
            yield
    return positional


def _of_rule(
    bound: BoundRules,
    place: int,
    rule: Rule,
    candidates: CandidateList,
    left: Sequence[int],
    length: int,
    before: Sequence[Hashable],
) -> Positional | None:
    end = len(before) + length
    match rule:
        case Pin():
            return _pin(bound, place, rule, candidates, left, end - length, end)
        case Spread():
            values = bound.values_of(rule.feature, None, candidates)
            return _window(place, 1, rule.distance, values, left, length)
        case Quota(window=int(window), at_most=int(at_most)):
            values = bound.values_of(rule.feature, rule.one_of, candidates)
            return _window(place, at_most, window, values, left, length)
        case Quota(at_least=int(at_least), first=int(first)):
            counted = [bool(value) for value in bound.values_of(rule.feature, rule.one_of, candidates)]
            matches = sum(map(bool, before)) + sum(counted[i] for i in left)
            # Later pages may contain what is missing here, as long as candidates remain for them.
            last = min(first, len(before) + len(left))
            return Positional(place, lambda: AtLeastInFirst(place, at_least, last, matches), counted)
        case Quota(first=int(first)):
            at_most = rule.at_most if rule.at_most is not None else _part(rule.share or 0.0, first)
            values = bound.values_of(rule.feature, rule.one_of, candidates)
            counted_positions = max(0, min(first, end) - len(before))
            if at_most == 0:
                return _none(place, first, values, left, counted_positions)
            can_hold = partial(_could_fill, values, left, at_most, first, counted_positions)
            return Positional(place, lambda: AtMostInFirst(place, at_most, first), values, can_hold=can_hold)
        case Interleave():
            sources: Sequence[str | None] = candidates.sources or [None] * len(candidates)
            every = [*before, *(sources[i] for i in left)]
            return Positional(place, lambda: InTurn(place, rule.pattern, every), sources)  # type: ignore[arg-type]
    return None


def _part(share: float, first: int) -> int:
    """Return a share of the first positions, rounded down. The share is the decimal number of the document: as a binary
    fraction, 0.29 of 100 is less than 29.
    """
    return int(Fraction(str(share)) * first)


def _pin(
    bound: BoundRules, place: int, rule: Pin, candidates: CandidateList, left: Sequence[int], start: int, end: int
) -> Positional | None:
    """A pin that applies to the positions after `start`, up to `end`."""
    if rule.position <= start:
        return None
    if rule.when is not None:
        matching = bound.matches(rule.when, candidates).tolist()
        applies = any(matching[i] for i in left) and rule.position <= end
        return Positional(place, lambda: PinnedCondition(place, rule.position), matching) if applies else None
    pinned = [item_id == rule.item_id for item_id in candidates.item_ids]
    if not any(pinned[i] for i in left):
        return None
    return Positional(place, lambda: PinnedItem(place, rule.position), pinned)


def _window(
    place: int, at_most: int, window: int, values: list[tuple[int, ...]], left: Sequence[int], length: int
) -> Positional:
    if at_most == 0:
        return _none(place, None, values, left, length)
    can_hold = partial(_could_fill, values, left, at_most, window, length)
    return Positional(place, lambda: AtMostInWindow(place, at_most, window), values, window - 1, can_hold)


def _none(
    place: int, first: int | None, values: Sequence[tuple[int, ...]], left: Sequence[int], positions: int
) -> Positional:
    """A rule that allows no candidate with a value at the next `positions`."""
    counted = [bool(value) for value in values]

    def can_hold() -> bool:
        return sum(not counted[i] for i in left) >= positions

    return Positional(place, lambda: NoneInFirst(place, first), counted, can_hold=can_hold)


def _could_fill(values: Sequence[tuple[int, ...]], left: Sequence[int], at_most: int, window: int, length: int) -> bool:
    """Return whether there are enough different values for `length` positions."""
    counts = Counter(map(values.__getitem__, left))
    if any(len(value) > 1 for value in counts):
        return True
    free = counts.pop((), 0)
    most = at_most * (length // window) + min(at_most, length % window)
    return free + sum(min(count, most) for count in counts.values()) >= length
