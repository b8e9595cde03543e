"""Counts with plain numbers on the hot path, and adds them to Prometheus' metrics a few times a second.

A ranking updates about thirty counters. An `observe` of the library costs more than packing the request's context; here
an update costs one addition, or a value in a list.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from prometheus_client import Counter, Histogram

_BRING_OVER_SECONDS = 0.25


class Count:
    """An amount that has not been added to its counter yet."""

    __slots__ = ("_counter", "_pending")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._pending = 0

    def inc(self) -> None:
        self._pending += 1

    def bring_over(self) -> None:
        if self._pending:
            self._counter.inc(self._pending)
            self._pending = 0


class LabelledCounts:
    """Amounts that have not been added to the children of a counter yet, by their labels."""

    __slots__ = ("_counter", "_pending")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._pending: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def inc(self, *labels: str, amount: int = 1) -> None:
        self._pending[labels] += amount

    def bring_over(self) -> None:
        for labels, amount in self._pending.items():
            self._counter.labels(*labels).inc(amount)
        self._pending.clear()


class Distribution:
    """Values that have not been added to their histogram yet.

    `observe(value)` is the `append` of a list, so it calls no Python function. The library cannot observe many values
    at once, so this class adds to its buckets and its sum directly; a test compares the result with `observe`.
    """

    __slots__ = ("_bounds", "_histogram", "_pending", "observe")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = np.array(histogram._upper_bounds)
        self._pending: list[float] = []
        self.observe: Callable[[float], None] = self._pending.append

    def bring_over(self) -> None:
        values = self._pending
        if not values:
            return
        # A bucket contains the values up to and including its bound.
        counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds))
        for bucket, count in zip(self._histogram._buckets, counts.tolist(), strict=True):
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(sum(values))
        values.clear()


class Tallies:
    """All counts of one worker in plain numbers."""

    def __init__(self) -> None:
        self._bringing: list[Callable[[], None]] = []
        self._due = False

    def count(self, counter: Counter) -> Count:
        count = Count(counter)
        self._bringing.append(count.bring_over)
        return count

    def labelled(self, counter: Counter) -> LabelledCounts:
        counts = LabelledCounts(counter)
        self._bringing.append(counts.bring_over)
        return counts

    def distribution(self, histogram: Histogram) -> Distribution:
        distribution = Distribution(histogram)
        self._bringing.append(distribution.bring_over)
        return distribution

    def also(self, bring_over: Callable[[], None]) -> None:
        """Register a function to call whenever counts are copied to Prometheus."""
        self._bringing.append(bring_over)

    def soon(self) -> None:
        """Schedule a copy of the counts to Prometheus within a quarter of a second."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(_BRING_OVER_SECONDS, self._later)

    def _later(self) -> None:
        self._due = False
        self.bring_over()

    def bring_over(self) -> None:
        for bring_over in self._bringing:
            bring_over()
