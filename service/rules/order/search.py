"""Finds the best order that satisfies constraints: the one with the most preferred candidate at the first position,
among those the one with the most preferred candidate at the second position, and so on.

`OrderSearch` is for lists on which `greedy` reaches a dead end. It backtracks depth first, and remembers states that
led to dead ends. Candidates with the same values for all constraints form one group, so that a list of few authors has
few choices.
"""

from collections import defaultdict
from collections.abc import Collection, Generator, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from service.rules.order.greedy import Counted

MOST_UNITS = 250_000  # of one ranking, however many rules and positions it has
_SLICE = 1500  # units of a budget between two yields: about as many microseconds
_VALUES_BEFORE_PAUSE = 8_000  # read while a search is set up, about a millisecond and a half
_RULES_IN_UNIT = 4  # asked in the time that the units of a decision stand for
_FEW_CANDIDATES = 10
_NOWHERE = np.iinfo(np.int64).max


@dataclass
class Budget:
    """What a ranking's searches may still cost, in units of about a microsecond.

    Other requests run after `until_pause` units.
    """

    units: int
    until_pause: int = _SLICE

    @classmethod
    def of(cls, candidates: int, length: int, rules: int, most: int = MOST_UNITS) -> "Budget":
        """The budget of one ranking: searches for all rules, for each rule and for the last one, and some
        backtracking, but no more than `most`.
        """
        # A list of a few candidates is searched whole, or nearly so.
        least = 60_000 if candidates <= _FEW_CANDIDATES else 3_000
        return cls(min(most, least + 3 * (rules + 2) * length * cost_of_position(candidates) // 2))

    def spend(self, units: int, rules: int = 1) -> None:
        """Count units. The time until the next pause also depends on how many rules a decision asks."""
        self.units -= units
        self.until_pause -= units * max(_RULES_IN_UNIT, rules) // _RULES_IN_UNIT

    def must_pause(self) -> bool:
        """Return whether other requests must run now; then a new slice begins."""
        if self.until_pause > 0:
            return False
        self.until_pause = _SLICE
        return True


def cost_of_pass(length: int, rules: int) -> int:
    """The units that one greedy order of `length` positions costs."""
    return length * (1 + rules) // 2


def cost_of_position(candidates: int) -> int:
    """The units that one decision costs."""
    return 15 + candidates // 100


class _Column:
    """One constraint in a search: its value for each group, and the groups of each value or member of a value."""

    def __init__(self, counted: Counted, first_of_groups: Sequence[int]) -> None:
        self.constraint = counted.constraint
        self.values = [counted.values[candidate] for candidate in first_of_groups]
        self._by_member = hasattr(counted.constraint, "barred_members")
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for group, value in enumerate(self.values):
            for key in value if self._by_member else (value,):  # type: ignore[attr-defined]
                groups[key].append(group)
        self._groups = {key: np.array(of_key) for key, of_key in groups.items()}

    def bar(self, mask: np.ndarray) -> None:
        """Clear the groups that are not allowed at the next position in a mask bool `[G]`."""
        for key in self._barred():
            groups = self._groups.get(key)
            if groups is not None:
                mask[groups] = False

    def _barred(self) -> Collection[Hashable]:
        if self._by_member:
            return self.constraint.barred_members()  # type: ignore[attr-defined, no-any-return]
        return [key for key in self._groups if not self.constraint.allows(key)]


class _Slices:
    """Slices of work that reads `values` between two questions whether a slice has ended."""

    def __init__(self, values: int) -> None:
        self._values = values
        self._left = _VALUES_BEFORE_PAUSE

    def end(self) -> bool:
        """Return whether other requests must run now; then a new slice begins."""
        self._left -= self._values
        if self._left > 0:
            return False
        self._left = _VALUES_BEFORE_PAUSE
        return True


class OrderSearch:
    """One search. `soft` constraints are satisfied if the hard ones leave a choice; earlier ones take precedence.

    `memory` is the number of last positions that a constraint reads.
    """

    def __init__(
        self,
        preference: Sequence[int],
        queues: Sequence[Sequence[int]],
        hard: Sequence[_Column],
        soft: Sequence[_Column],
        memory: int,
    ) -> None:
        self._preference = preference
        self._queues = queues
        self._hard = hard
        self._soft = soft
        # The next candidate of each group, by its position in the preference.
        self._taken = np.zeros(len(queues), dtype=np.int32)
        self._heads = np.array([queue[0] for queue in queues], dtype=np.int64)
        self._memory = memory
        self._dead: set[bytes] = set()

    @classmethod
    def of(
        cls, preference: Sequence[int], hard: Sequence[Counted], soft: Sequence[Counted], memory: int
    ) -> Generator[None, None, "OrderSearch"]:
        """Return the search for candidates in the order of preference. Yields after each slice of its work."""
        slices = _Slices(len(preference))
        # Group the candidates: those with the same values are interchangeable, and the most preferred one comes first.
        groups = [0] * len(preference)
        for each in (*hard, *soft):
            numbers: dict[tuple[int, Hashable], int] = {}
            values = each.values
            pairs = zip(groups, preference, strict=True)
            groups = [numbers.setdefault((group, values[candidate]), len(numbers)) for group, candidate in pairs]
            if slices.end():
                yield
        queues: defaultdict[int, list[int]] = defaultdict(list)
        for position, group in enumerate(groups):
            queues[group].append(position)
        # Find the groups of each value.
        first_of_groups = [preference[queue[0]] for queue in queues.values()]
        columns = []
        for each in (*hard, *soft):
            columns.append(_Column(each, first_of_groups))
            if slices.end():
                yield
        return cls(preference, list(queues.values()), columns[: len(hard)], columns[len(hard) :], memory)

    def run(self, length: int, budget: Budget, parts: int) -> Generator[None, None, list[int] | None]:
        """Return the best order of `length` candidates; None if no order satisfies the hard constraints, or if one of
        `parts` equal parts of the budget is spent. Yields whenever other requests must run.
        """
        cost = cost_of_position(len(self._queues))
        rules = len(self._hard) + len(self._soft)
        least = budget.units - budget.units // parts
        groups: list[int] = []
        order: list[int] = []
        # The groups that led to dead ends, for every decided position and the next one.
        failed: list[set[int]] = [set()]
        while len(order) < length:
            if budget.units <= least:
                return None
            if budget.must_pause():
                yield
            budget.spend(cost, rules)
            group = self._best(failed[-1])
            if group is not None:
                order.append(self._take(group))
                groups.append(group)
                failed.append(set())
                # A state that led nowhere once leads nowhere again. Only a search that has failed pays for looking.
                if not self._dead or self._state(groups) not in self._dead:
                    continue
            elif not order:
                return None
            else:
                self._dead.add(self._state(groups))
            # Backtrack by one position.
            failed.pop()
            order.pop()
            last = groups.pop()
            self._put_back(last)
            failed[-1].add(last)
        return order

    def _best(self, failed: Collection[int]) -> int | None:
        """The group with the best candidate that may stand at the next position; None if there is none."""
        mask = self._heads < _NOWHERE
        for column in self._hard:
            column.bar(mask)
        if failed:
            mask[list(failed)] = False
        for column in self._soft:
            meets = mask.copy()
            column.bar(meets)
            if meets.any():
                mask = meets
        best = int(np.where(mask, self._heads, _NOWHERE).argmin())
        return best if mask[best] else None

    def _take(self, group: int) -> int:
        """Place a group's next candidate, and return it."""
        position = int(self._heads[group])
        self._move_head(group, 1)
        for column in (*self._hard, *self._soft):
            column.constraint.place(column.values[group])
        return self._preference[position]

    def _put_back(self, group: int) -> None:
        self._move_head(group, -1)
        for column in (*self._hard, *self._soft):
            column.constraint.take_back(column.values[group])

    def _move_head(self, group: int, by: int) -> None:
        self._taken[group] += by
        queue = self._queues[group]
        taken = int(self._taken[group])
        self._heads[group] = queue[taken] if taken < len(queue) else _NOWHERE

    def _state(self, groups: Sequence[int]) -> bytes:
        """A hash of everything that the rest of the search depends on: how many of each group are placed, and the last
        ones in their order. A search remembers many states, so that each takes 16 bytes, however long the list is.
        """
        last = groups[-self._memory :] if self._memory else ()
        state = self._taken.tobytes() + np.array(last, dtype=np.int32).tobytes()
        return blake2b(state, digest_size=16).digest()
