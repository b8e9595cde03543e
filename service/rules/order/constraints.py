"""Holds the constraints on the order of a list, each as a check of one more position.

A constraint sees one value per candidate (an author's number, a source, whether a condition matches) and nothing else,
so that candidates with equal values are interchangeable for it. `allows` says whether a value may stand at the next
position, given those that were placed; a list satisfies the rule exactly if every step was allowed.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Values = tuple[int, ...]


class Constraint(Protocol):
    """One rule during one search. `rule` is its place in the operator's list."""

    rule: int

    def allows(self, value: Any) -> bool:
        """Whether a candidate with this value may stand at the next position."""

    def place(self, value: Any) -> None:
        """A candidate with this value stands at the next position."""

    def take_back(self, value: Any) -> None:
        """Undo the last `place`, which was of this value."""


class AtMostInWindow:
    """At most `at_most` (1 or more) of each value in any `window` neighbours.

    A candidate may have several values, if its feature does.
    """

    def __init__(self, rule: int, at_most: int, window: int) -> None:
        self.rule = rule
        self._at_most = at_most
        self._window = window
        self._placed: list[Values] = []
        self._counts: defaultdict[int, int] = defaultdict(int)  # of the last window - 1 positions

    # Loops instead of generators: these two run for every position of every ranking.
    def allows(self, value: Values) -> bool:
        for one in value:  # noqa: SIM110
            if self._counts[one] >= self._at_most:
                return False
        return True

    def place(self, value: Values) -> None:
        counts = self._counts
        placed = self._placed
        placed.append(value)
        for one in value:
            counts[one] += 1
        leaves = len(placed) - self._window
        if leaves >= 0:
            for one in placed[leaves]:
                counts[one] -= 1

    def barred_members(self) -> set[int]:
        """The values that may not stand at the next position."""
        last = self._placed[-(self._window - 1) :]
        return {one for value in last for one in value if self._counts[one] >= self._at_most}

    def take_back(self, value: Values) -> None:
        leaves = len(self._placed) - self._window
        if leaves >= 0:
            self._add(self._placed[leaves], 1)
        self._placed.pop()
        self._add(value, -1)

    def _add(self, value: Values, count: int) -> None:
        for one in value:
            self._counts[one] += count


class AtMostInFirst:
    """At most `at_most` (1 or more) of each value in the first `first` positions."""

    def __init__(self, rule: int, at_most: int, first: int) -> None:
        self.rule = rule
        self._at_most = at_most
        self._first = first
        self._position = 0
        self._counts: Counter[int] = Counter()

    def allows(self, value: Values) -> bool:
        counts = self._counts
        return self._position >= self._first or all(counts[one] < self._at_most for one in value)

    def place(self, value: Values) -> None:
        if self._position < self._first:
            self._counts.update(value)
        self._position += 1

    def barred_members(self) -> list[int]:
        """The values that may not stand at the next position."""
        if self._position >= self._first:
            return []
        return [one for one, count in self._counts.items() if count >= self._at_most]

    def take_back(self, value: Values) -> None:
        self._position -= 1
        if self._position < self._first:
            self._counts.subtract(value)


class NoneInFirst:
    """No match in the first `first` positions, or in any if `first` is None. The value says whether the candidate
    matches.
    """

    def __init__(self, rule: int, first: int | None) -> None:
        self.rule = rule
        self._left = first

    def allows(self, value: bool) -> bool:
        return not value or (self._left is not None and self._left <= 0)

    def place(self, value: bool) -> None:
        if self._left is not None:
            self._left -= 1

    def take_back(self, value: bool) -> None:
        if self._left is not None:
            self._left += 1


class AtLeastInFirst:
    """At least `at_least` matches in the first `first` positions, or all matches if there are fewer.

    If a list is shorter than `first`, its next pages count too.
    """

    def __init__(self, rule: int, at_least: int, first: int, matches: int) -> None:
        self.rule = rule
        self._missing = min(at_least, matches, first)
        self._first = first
        self._position = 0

    def allows(self, value: bool) -> bool:
        return value or self._position >= self._first or self._first - self._position > self._missing

    def place(self, value: bool) -> None:
        self._position += 1
        self._missing -= int(value)

    def take_back(self, value: bool) -> None:
        self._position -= 1
        self._missing += int(value)


class PinnedItem:
    """One candidate at one position and nowhere else. Its value is True, every other's False."""

    def __init__(self, rule: int, position: int) -> None:
        self.rule = rule
        self._left = position - 1  # positions before it

    def allows(self, value: bool) -> bool:
        return value == (self._left == 0)

    def place(self, value: bool) -> None:
        self._left -= 1

    def take_back(self, value: bool) -> None:
        self._left += 1


class PinnedCondition:
    """A match at one position; matches may stand elsewhere too."""

    def __init__(self, rule: int, position: int) -> None:
        self.rule = rule
        self._left = position - 1

    def allows(self, value: bool) -> bool:
        return value or self._left != 0

    def place(self, value: bool) -> None:
        self._left -= 1

    def take_back(self, value: bool) -> None:
        self._left += 1


class InTurn:
    """Sources in the order of a pattern; a source that has run out gives its place to any other.

    The value is the candidate's source.
    """

    def __init__(self, rule: int, pattern: Sequence[str], sources: Iterable[str | None]) -> None:
        self.rule = rule
        self._pattern = deque(pattern)
        self._left = Counter(sources)

    def allows(self, value: str | None) -> bool:
        source = self._pattern[0]
        return value == source or self._left[source] <= 0

    def place(self, value: str | None) -> None:
        self._pattern.rotate(-1)
        self._left[value] -= 1

    def take_back(self, value: str | None) -> None:
        self._pattern.rotate(1)
        self._left[value] += 1
