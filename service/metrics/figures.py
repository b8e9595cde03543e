"""Computes figures over a window of a history: increases, rates, quantiles of histograms, and gauges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import NamedTuple

from service.metrics.history import History, Labels

Matches = Callable[[Labels], bool]
ByLabels = dict[tuple[str, ...], float]
_SHORTEST_SECONDS = 1e-6


class Latency(NamedTuple):
    """A histogram over a window: `n` observations, and their mean and quantiles in seconds; None without any."""

    n: int
    mean: float | None
    quantiles: tuple[float | None, ...]


def every(_: Labels) -> bool:
    """Matches all series of a name."""
    return True


def having(label: str, *values: str) -> Matches:
    """Matches the series with one of these values of a label."""
    return lambda labels: labels.get(label) in values


def lacking(label: str, value: str) -> Matches:
    """Matches the series with another value of a label."""
    return lambda labels: labels.get(label) != value


@dataclass(frozen=True, eq=False)
class HistoryView:
    """A history as of one of its samples, the one at the place `place`."""

    history: History
    place: int

    @cached_property
    def _series(self) -> Mapping[str, list[tuple[Labels, int]]]:
        return self.history.series()

    @property
    def time(self) -> float:
        return self.history.times[self.place]

    def as_of(self, place: int) -> "HistoryView":
        """The view of another sample."""
        view = HistoryView(self.history, place)
        # The series are the same; listing them costs more than all figures.
        view.__dict__["_series"] = self._series
        return view

    def covered(self, window_s: float) -> float:
        """The seconds of a window that the history covers: fewer than asked for soon after the start."""
        return self.time - self.history.times[self._first(window_s)]

    def increase(self, name: str, window_s: float, matches: Matches = every, by: Sequence[str] = ()) -> ByLabels:
        """How much counters grew over a window, added up by some of their labels."""
        old = self.history.rows[self._first(window_s)]
        new = self.history.rows[self.place]
        grown: ByLabels = {}
        for labels, place in self._series.get(name, ()):
            if matches(labels):
                group = tuple(labels.get(label, "") for label in by)
                grown[group] = grown.get(group, 0.0) + max(0.0, _value(new, place) - _value(old, place))
        return grown

    def total(self, name: str, window_s: float, matches: Matches = every) -> float:
        """The sum of `increase` over all labels."""
        return sum(self.increase(name, window_s, matches).values())

    def value(self, name: str, matches: Matches = every) -> int:
        """The sum of counters since the start of the service."""
        row = self.history.rows[self.place]
        return int(sum(_value(row, place) for labels, place in self._series.get(name, ()) if matches(labels)))

    def rate(self, name: str, window_s: float, matches: Matches = every, by: Sequence[str] = ()) -> ByLabels:
        """`increase` per second."""
        seconds = max(self.covered(window_s), _SHORTEST_SECONDS)
        return {group: value / seconds for group, value in self.increase(name, window_s, matches, by).items()}

    def gauge(self, name: str, by: Sequence[str] = ()) -> ByLabels:
        """The largest value of gauges now, by some of their labels."""
        row = self.history.rows[self.place]
        values: ByLabels = {}
        for labels, place in self._series.get(name, ()):
            group = tuple(labels.get(label, "") for label in by)
            values[group] = max(values.get(group, -inf), _value(row, place))
        return values

    def changes(self, name: str, window_s: float) -> int:
        """How often the largest value of a gauge changed between samples of a window."""
        values = [self.as_of(place).gauge(name).get((), 0.0) for place in range(self._first(window_s), self.place + 1)]
        return sum(one != other for one, other in zip(values, values[1:], strict=False))

    def latency(self, name: str, window_s: float, quantiles: Sequence[float], matches: Matches = every) -> Latency:
        """A histogram over a window; quantiles are interpolated inside a bucket, as Prometheus does."""
        buckets = {float(le): n for (le,), n in self.increase(f"{name}_bucket", window_s, matches, ("le",)).items()}
        count = buckets.get(inf, 0.0)
        if not count:
            return Latency(0, None, (None,) * len(quantiles))
        mean = self.total(f"{name}_sum", window_s, matches) / count
        return Latency(int(count), mean, tuple(_quantile(buckets, count, quantile) for quantile in quantiles))

    def _first(self, window_s: float) -> int:
        return self.history.at_or_before(self.time - window_s)


def _value(row: Sequence[float], place: int) -> float:
    return row[place] if place < len(row) else 0.0


def _quantile(buckets: Mapping[float, float], count: float, quantile: float) -> float:
    """The quantile of cumulative buckets; in the last one, its lower bound."""
    rank = quantile * count
    lower = 0.0
    below = 0.0
    for bound, cumulative in sorted(buckets.items()):
        if cumulative >= rank:
            if bound == inf or cumulative == below:
                return lower
            return lower + (bound - lower) * (rank - below) / (cumulative - below)
        lower = bound
        below = cumulative
    return lower
