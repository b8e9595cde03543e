"""Takes the best allowed candidate at every position, which gives the best order unless it reaches a dead end."""

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.rules.order.constraints import Constraint

CHECKS_BEFORE_PAUSE = 3000  # of one candidate by one constraint, about a millisecond and a half
_LOOKS = 8  # per position, after which a search that rules out whole groups is cheaper


@dataclass(frozen=True, eq=False)
class Counted:
    """A constraint, and the value of each candidate for it."""

    constraint: Constraint
    values: Sequence[Hashable]


def greedy(
    preference: Sequence[int], counted: Sequence[Counted], length: int
) -> Generator[None, None, tuple[list[int], set[int]] | None]:
    """Return the best allowed candidate at each position, and the rules that barred a better one.

    Returns None if some position has no allowed candidate, or if finding one takes too long. Yields after each slice of
    its work.
    """
    left = list(preference)
    checks = [(each.constraint.allows, each.values) for each in counted]
    places = [(each.constraint.place, each.values) for each in counted]
    looks = _LOOKS * length + len(left) // 4
    until_pause = CHECKS_BEFORE_PAUSE
    order: list[int] = []
    barring: set[int] = set()
    while len(order) < length:
        index = _first_allowed(left, checks)
        if index is None:
            return None
        looks -= index
        if looks < 0:
            return None
        if index:
            barring.update(_barring(left[0], counted))
        candidate = left.pop(index)
        order.append(candidate)
        for place, values in places:
            place(values[candidate])
        # Placing a candidate costs about as much as looking at one.
        until_pause -= (2 + index) * len(checks)
        if until_pause <= 0:
            until_pause = CHECKS_BEFORE_PAUSE
            yield
    return order, barring


def barring_rules(
    preference: Sequence[int], order: Sequence[int], counted: Sequence[Counted]
) -> Generator[None, None, set[int]]:
    """The rules that barred a better candidate at some position of an order. Yields after each slice of its work."""
    barring: set[int] = set()
    left = iter(preference)
    placed: set[int] = set()
    best = next(left)
    until_pause = CHECKS_BEFORE_PAUSE
    for candidate in order:
        if best in placed:
            best = next(each for each in left if each not in placed)
        if best != candidate:
            barring.update(_barring(best, counted))
        placed.add(candidate)
        for each in counted:
            each.constraint.place(each.values[candidate])
        until_pause -= 2 * len(counted)
        if until_pause <= 0:
            until_pause = CHECKS_BEFORE_PAUSE
            yield
    return barring


def _barring(candidate: int, counted: Sequence[Counted]) -> Iterator[int]:
    """The rules that do not allow a candidate at the next position."""
    for each in counted:
        if not each.constraint.allows(each.values[candidate]):
            yield each.constraint.rule


def _first_allowed(
    left: Sequence[int], checks: Sequence[tuple[Callable[[Any], bool], Sequence[Hashable]]]
) -> int | None:
    """The index of the first candidate that all constraints allow."""
    for index, candidate in enumerate(left):
        for allows, values in checks:
            if not allows(values[candidate]):
                break
        else:
            return index
    return None
