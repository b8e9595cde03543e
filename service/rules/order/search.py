"""Finds the best order that satisfies constraints: depth first, in the order of preference; dead ends are remembered.

The result is exact: of all orders that satisfy the constraints it has the most preferred candidate at the first
position, of those the most preferred at the second, and so on. A budget of checks, which all searches of one ranking
share, bounds what a hard list may cost; a search that finds it empty counts as one without a result.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from service.rules.order.constraints import Constraint

Signature = tuple[Hashable, ...]


@dataclass
class Budget:
    """How many candidates the searches of one ranking may still look at, about a microsecond each."""

    checks: int

    @classmethod
    def of(cls, candidates: int) -> "Budget":
        """The budget of one ranking: a list of 50 may pass over most of its candidates at every position."""
        return cls(20_000 + 50 * candidates)

    def part(self) -> "Budget":
        """A quarter of what is left, taken out, so that one hopeless search leaves something for the others."""
        part = Budget(self.checks // 4)
        self.checks -= part.checks
        return part


@dataclass
class _Place:
    """One decided position: which candidate, where it stood among those left, and the signatures that led nowhere."""

    candidate: int
    index: int
    failed: set[Signature]


class OrderSearch:
    """One search. `values[c][i]` is the value of candidate `i` for constraint `c`.

    `soft` constraints are met where the hard ones leave a choice, the first of them before the others. `memory` is how
    many of the last positions any constraint looks back on.
    """

    def __init__(
        self,
        preference: Sequence[int],
        hard: Sequence[Constraint],
        values: Sequence[Sequence[Hashable]],
        soft: Sequence[Constraint] = (),
        soft_values: Sequence[Sequence[Hashable]] = (),
        memory: int = 0,
    ) -> None:
        self._left = list(preference)
        self._hard = list(zip(hard, values, strict=True))
        self._soft = list(zip(soft, soft_values, strict=True))
        self._all = self._hard + self._soft
        # Bound methods, since they are called for every position.
        self._checks = [(constraint.allows, column) for constraint, column in self._hard]
        self._places = [(constraint.place, column) for constraint, column in self._all]
        self._memory = memory
        self._dead: set[tuple[Hashable, ...]] = set()

    def run(self, length: int, budget: Budget) -> list[int] | None:
        """The best order of `length` candidates;

        None if none satisfies the hard constraints, or the budget is used up.
        """
        places: list[_Place] = []
        failed: set[Signature] = set()
        start = 0
        while len(places) < length:
            index = self._next(start, failed, budget)
            if budget.checks <= 0:
                return None
            if index is not None:
                places.append(_Place(self._take(index), index, failed))
                failed = set()
                start = 0
                # A state that led nowhere once leads nowhere again. Only a search that has failed pays for looking.
                if not self._dead:
                    continue
                budget.checks -= len(places)
                if self._state(places) not in self._dead:
                    continue
            elif not places:
                return None
            else:
                self._dead.add(self._state(places))
            # Go back one position. Candidates with the same signature would fail in the same way.
            last = places.pop()
            self._put_back(last)
            failed = last.failed | {self._signature(last.candidate)}
            start = 0 if self._soft else last.index + 1
        return [place.candidate for place in places]

    def _next(self, start: int, failed: set[Signature], budget: Budget) -> int | None:
        """Where the best allowed candidate stands among those left, None if there is none."""
        best = None
        fewest: tuple[bool, ...] | None = None
        index = start
        for index in range(start, len(self._left)):
            candidate = self._left[index]
            if not self._allowed(candidate):
                continue
            if failed and self._signature(candidate) in failed:
                continue
            if not self._soft:
                best = index
                break
            broken = tuple(not constraint.allows(values[candidate]) for constraint, values in self._soft)
            if fewest is None or broken < fewest:
                best = index
                fewest = broken
            if not any(broken):
                break
        budget.checks -= index - start + 1
        return best

    def _allowed(self, candidate: int) -> bool:
        for allows, column in self._checks:  # noqa: SIM110 - a generator costs more than the whole check
            if not allows(column[candidate]):
                return False
        return True

    def _take(self, index: int) -> int:
        candidate = self._left.pop(index)
        for place, column in self._places:
            place(column[candidate])
        return candidate

    def _put_back(self, place: _Place) -> None:
        for constraint, values in self._all:
            constraint.take_back(values[place.candidate])
        self._left.insert(place.index, place.candidate)

    def _signature(self, candidate: int) -> Signature:
        return tuple(values[candidate] for _, values in self._all)

    def _state(self, places: Sequence[_Place]) -> tuple[Hashable, ...]:
        """All that the rest of the search depends on: how often each signature was placed, and the last ones in their
        order.
        """
        signatures = [self._signature(place.candidate) for place in places]
        last = signatures[-self._memory :] if self._memory else ()
        return frozenset(Counter(signatures).items()), *last
