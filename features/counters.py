"""The arithmetic of counters: what one cell of a counter store holds, and the numbers that it gives at a moment.

A cell has the counts of one key (an item, a user, a user and a value of an item feature, a scene), in entries of 8
bytes. Redis adds increments to cells, training counts a log; both compute their numbers here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from features.times import LATEST_AHEAD_MS

DAY_S: Final = 86_400
IMPRESSION: Final = "impression"  # the action of what `/impressions` reports
MOST_BUCKETS: Final = 168  # of a window: a week of hours
# Of one key in the store. A ranking reads those of its user and scene, and of hundreds of items.
MOST_KEY_BYTES: Final = {"item": 8_192, "user": 65_536, "scene": 65_536}

# One entry. A bucket: its number and count. A distinct value: its hash and the newest bucket. A time: its upper and
# lower half in milliseconds. Entries of zeros are empty.
ENTRY: Final = np.dtype([("stamp", "<u4"), ("count", "<u4")])
ENTRY_BYTES: Final = ENTRY.itemsize
# The kinds of a series.
BUCKETS: Final = 0
TIME: Final = 1
DISTINCT: Final = 2

# Shape legend: n keys, E entries of a cell, S entries of a series, B buckets of a window, K counters.


@dataclass(frozen=True)
class Series:
    """What a cell holds of the events of some actions: `size` entries from `start` on.

    `of` says what a distinct series counts; `bucket_ms` is 0 for a time.
    """

    kind: int
    actions: frozenset[str]
    of: str | None
    bucket_ms: int
    start: int
    size: int


@dataclass(frozen=True)
class Term:
    """One counter: its column among the numbers, its series (for a rate those of x and of n), its window in buckets."""

    column: int
    counter: Any
    series: tuple[int, ...]
    buckets: int


@dataclass(frozen=True, eq=False)
class CellLayout:
    """The layout of the cells of one kind of key. `places` are those of its counters in the schema.

    With an `item_feature`, a user has one cell per value of that feature, modulo `values`.
    """

    by: str
    item_feature: str | None
    values: int
    series: tuple[Series, ...]
    terms: tuple[Term, ...]
    places: tuple[int, ...]

    @property
    def entries(self) -> int:
        return sum(series.size for series in self.series)

    @cached_property
    def keep_ms(self) -> int:
        """How long a cell is of use after its last increment."""
        longest = max(term.counter.window_s for term in self.terms)
        width = max((series.bucket_ms for series in self.series), default=0)
        return int(longest * 1000 + width + LATEST_AHEAD_MS)

    @cached_property
    def item_features(self) -> frozenset[str]:
        """The item features whose value an event must bring."""
        named = [self.item_feature, *(series.of for series in self.series)]
        return frozenset(name for name in named if name not in (None, "user", "item"))


@dataclass
class _Drafts:
    """The series of one kind of key while its counters are read: `{identity: [largest window in buckets, place]}`."""

    series: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)
    terms: list[tuple[int, Any, tuple[int, ...], int]] = field(default_factory=list)

    def place(self, kind: int, actions: Sequence[str], of: str | None, bucket_ms: int, size: int) -> int:
        """The place of a series; counters of the same events and bucket width share one."""
        shared_size = 0 if kind == BUCKETS else size
        identity = (kind, frozenset(actions), of, bucket_ms, shared_size)
        entry = self.series.setdefault(identity, [size, len(self.series)])
        entry[0] = max(entry[0], size)
        return entry[1]


def cell_layouts(counters: Sequence[Any]) -> list[CellLayout]:
    """The cells of a schema's counters, one layout per kind of key, in the order of the first counter."""
    drafts: dict[tuple[str, str | None, int], _Drafts] = {}
    for column, counter in enumerate(counters):
        values = counter.values if counter.item_feature is not None else 0
        draft = drafts.setdefault((counter.by, counter.item_feature, values), _Drafts())
        _add(draft, column, counter)
    return [_finished(key, draft) for key, draft in drafts.items()]


def _add(draft: _Drafts, column: int, counter: Any) -> None:
    if counter.statistic == "time_since":
        draft.terms.append((column, counter, (draft.place(TIME, counter.actions, None, 0, 1),), 0))
        return
    bucket_ms = counter.bucket_s * 1000
    buckets = counter.window_s // counter.bucket_s
    if counter.statistic == "distinct":
        places: tuple[int, ...] = (draft.place(DISTINCT, counter.actions, counter.of, bucket_ms, counter.most),)
    else:
        # Events ahead of this clock must not take the slots of a bucket that still counts.
        slots = buckets + LATEST_AHEAD_MS // bucket_ms + 2
        every = [counter.actions] if counter.statistic == "count" else [counter.actions, counter.per]
        places = tuple(draft.place(BUCKETS, actions, None, bucket_ms, slots) for actions in every)
    draft.terms.append((column, counter, places, buckets))


def _finished(key: tuple[str, str | None, int], draft: _Drafts) -> CellLayout:
    series = []
    start = 0
    for (kind, actions, of, bucket_ms, _), (size, _) in draft.series.items():
        series.append(Series(kind, actions, of, bucket_ms, start, size))
        start += size
    terms = tuple(Term(*term) for term in draft.terms)
    return CellLayout(*key, tuple(series), terms, tuple(term.column for term in terms))


@dataclass(frozen=True)
class Increment:
    """One change of a cell: the series' kind, its first entry, its size, two numbers, and the slot to change.

    A bucket: its number and how many to add. A time: its upper and lower half. A distinct value: its hash, its bucket.
    """

    kind: int
    start: int
    size: int
    one: int
    two: int


def increments(layout: CellLayout, action: str, time_ms: int, values: Mapping[str, int]) -> list[Increment]:
    """The changes that one event makes to a cell. `values` are the keys of the user, the item and its features;
    0 is a missing value, which counts as no distinct one.
    """
    parts = []
    for series in layout.series:
        if action not in series.actions:
            continue
        if series.kind == TIME:
            parts.append(Increment(TIME, series.start, 1, time_ms >> 32, time_ms & 0xFFFFFFFF))
            continue
        bucket = time_ms // series.bucket_ms
        if series.kind == BUCKETS:
            parts.append(Increment(BUCKETS, series.start + bucket % series.size, 1, bucket, 1))
        elif values[str(series.of)]:
            parts.append(Increment(DISTINCT, series.start, series.size, values[str(series.of)] & 0xFFFFFFFF, bucket))
    return parts


def numbers_of(layout: CellLayout, cells: np.ndarray, moment_ms: int) -> np.ndarray:
    """The numbers of stored cells `[n, E]` of ENTRY at one moment, float32 `[n, K]` in the order of `places`."""
    n = len(cells)
    stamps = cells["stamp"]
    counts = cells["count"]
    numbers = np.empty((n, len(layout.terms)), dtype=np.float32)
    totals: dict[tuple[int, int, float | None], np.ndarray] = {}
    for column, term in enumerate(layout.terms):
        series = layout.series[term.series[0]]
        of_series = slice(series.start, series.start + series.size)
        if series.kind == TIME:
            last = (stamps[:, series.start].astype(np.int64) << 32) | counts[:, series.start].astype(np.int64)
            numbers[:, column] = seconds_since(term, last, np.full(n, moment_ms))
        elif series.kind == DISTINCT:
            present = np.full(n, moment_ms // series.bucket_ms)
            numbers[:, column] = distinct_count(term, counts[:, of_series].astype(np.int64), present)
        else:
            # Counters share series, so that a total may be of use twice.
            for place in term.series:
                key = (place, term.buckets, term.counter.half_life_s)
                if key not in totals:
                    by_age = _by_age(layout.series[place], stamps, counts, moment_ms, term.buckets)
                    totals[key] = total_of(term, by_age)
            of_term = [totals[place, term.buckets, term.counter.half_life_s] for place in term.series]
            numbers[:, column] = number_of_totals(term, of_term)
    return numbers


def _by_age(series: Series, stamps: np.ndarray, counts: np.ndarray, moment_ms: int, buckets: int) -> np.ndarray:
    """Counts by the age of their bucket, int64 `[n, B]`, the present bucket first, from the cells' columns `[n, E]`."""
    bucket = moment_ms // series.bucket_ms - np.arange(buckets)
    places = series.start + bucket % series.size
    return np.where(stamps[:, places] == bucket, counts[:, places], 0).astype(np.int64)


def total_of(term: Term, by_age: np.ndarray) -> np.ndarray:
    """The events of a window from counts by age int64 `[n, B]`, float64 `[n]`: weighted if the counter has a half life.

    The sum runs along a row, so that its bits do not depend on the other rows.
    """
    counter = term.counter
    if counter.half_life_s is None:
        return np.asarray(by_age.sum(axis=1).astype(np.float64))
    weights = 0.5 ** (np.arange(term.buckets) * counter.bucket_s / counter.half_life_s)
    return np.asarray((np.ascontiguousarray(by_age) * weights).sum(axis=1))


def number_of_totals(term: Term, totals: Sequence[np.ndarray]) -> np.ndarray:
    """Return a count, or a rate (a + x) / (b + n), float32 `[n]`.

    `totals` has x, and for a rate n, float64 `[n]`. A rate without a prior is NaN if nothing was counted.
    """
    counter = term.counter
    if counter.statistic == "count":
        return np.asarray(totals[0].astype(np.float32))
    above = counter.prior.a + totals[0]
    below = counter.prior.b + totals[1]
    rates = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return np.asarray(rates.astype(np.float32))


def seconds_since(term: Term, last_ms: np.ndarray, moments_ms: np.ndarray) -> np.ndarray:
    """Seconds since the last time int64 `[n]` (0: none): float32 `[n]`, missing beyond the window."""
    age = np.maximum(moments_ms - last_ms, 0) / 1000
    in_window = (last_ms > 0) & (age <= term.counter.window_s)
    return np.asarray(np.where(in_window, age, np.nan).astype(np.float32))


def distinct_count(term: Term, newest: np.ndarray, present: np.ndarray) -> np.ndarray:
    """How many values were counted in the window: from each value's newest bucket int64 `[n, S]`, float32 `[n]`."""
    counted = newest > (present - term.buckets)[:, None]
    return np.asarray(np.minimum(counted.sum(axis=1), term.counter.most).astype(np.float32))
