"""Counts events of keys as of moments: an event counts for the moments after its arrival.

All functions are vectorised over the moments, late events included, except the count of distinct values.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.counters import Series, Term, distinct_count
from features.keys import sorted_distinct

# Shape legend: n events, m moments, B buckets of a window.


@dataclass(frozen=True)
class Moments:
    """The moments that are asked for: keys int64 `[m]` (0: none) and times in milliseconds `[m]`."""

    key: np.ndarray
    time: np.ndarray


@dataclass(frozen=True)
class SeriesEvents:
    """Events of one series: keys int64 `[n]`, none of them 0, times and arrivals `[n]`, and what is distinct `[n]`."""

    key: np.ndarray
    time: np.ndarray
    arrived: np.ndarray
    value: np.ndarray

    @cached_property
    def keys(self) -> np.ndarray:
        return sorted_distinct(self.key)

    @cached_property
    def arrivals(self) -> np.ndarray:
        return sorted_distinct(self.arrived)

    @cached_property
    def ranks(self) -> np.ndarray:
        """The place of each event's arrival among all arrivals, `[n]`."""
        return np.searchsorted(self.arrivals, self.arrived)

    def key_places(self, keys: np.ndarray) -> np.ndarray:
        """The places of keys among those of the events; -1 for a key without events."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)

    def ranks_before(self, times: np.ndarray) -> np.ndarray:
        """How many arrivals lie before each time: events with a smaller rank count."""
        return np.searchsorted(self.arrivals, times, side="left")


class BucketCounts:
    """Counts of events by bucket: events are sorted by (key, bucket) and arrival, so that a count is two searches."""

    def __init__(self, events: SeriesEvents, series: Series) -> None:
        self._events = events
        self._width = series.bucket_ms
        bucket = events.time // self._width
        self._first = int(bucket.min(initial=0)) if len(bucket) else 0
        self._span = int(bucket.max(initial=0)) - self._first + 1 if len(bucket) else 1
        code = events.key_places(events.key) * self._span + bucket - self._first
        self._codes, place = np.unique(code, return_inverse=True)
        self._stride = len(events.arrivals) + 1
        self._sorted = np.sort(place * self._stride + events.ranks)

    def by_age(self, moments: Moments, buckets: int) -> np.ndarray:
        """Counts by age of the bucket, int64 `[m, B]`, the bucket of the moment first."""
        counts = np.zeros((len(moments.key), buckets), dtype=np.int64)
        if not len(self._codes):
            return counts
        key = self._events.key_places(moments.key)
        rank = self._events.ranks_before(moments.time)
        present = moments.time // self._width - self._first
        for age in range(buckets):
            bucket = present - age
            code = key * self._span + bucket
            place = np.minimum(np.searchsorted(self._codes, code), len(self._codes) - 1)
            hit = (key >= 0) & (bucket >= 0) & (bucket < self._span) & (self._codes[place] == code)
            start = place[hit] * self._stride
            last = np.searchsorted(self._sorted, start + rank[hit])
            counts[hit, age] = last - np.searchsorted(self._sorted, start)
        return counts


def last_times(events: SeriesEvents, moments: Moments) -> np.ndarray:
    """The latest time of an event that arrived before each moment, int64 `[m]`; 0 if there is none."""
    if not len(events.key):
        return np.zeros(len(moments.key), dtype=np.int64)
    key = events.key_places(events.key)
    stride = len(events.arrivals) + 1
    order = np.argsort(key * stride + events.ranks, kind="stable")
    code = (key * stride + events.ranks)[order]
    # Keys ascend, so that the largest (key, time) so far is the latest time of the present key.
    times, time = np.unique(events.time, return_inverse=True)
    latest = np.maximum.accumulate((key * len(times) + time)[order])
    moment_places = events.key_places(moments.key)
    place = np.searchsorted(code, moment_places * stride + events.ranks_before(moments.time)) - 1
    has_earlier = (moment_places >= 0) & (place >= 0) & (key[order][np.maximum(place, 0)] == moment_places)
    return np.where(has_earlier, times[latest[np.maximum(place, 0)] % len(times)], 0)


def distinct_counts(events: SeriesEvents, moments: Moments, term: Term, bucket_ms: int) -> np.ndarray:
    """The numbers of a distinct counter, float32 `[m]`: events and moments of a key are read in order of arrival."""
    numbers = np.zeros(len(moments.key), dtype=np.float32)
    place_of = events.key_places(moments.key)
    by_key = np.lexsort((events.arrived, events.key))
    starts = np.searchsorted(events.key[by_key], events.keys)
    ends = np.append(starts[1:], len(by_key))
    moment_order = np.lexsort((moments.time, place_of))
    newest: dict[int, int] = {}
    key = -1
    at = 0
    for m in moment_order[np.searchsorted(place_of[moment_order], 0) :].tolist():
        if place_of[m] != key:
            key = int(place_of[m])
            at = int(starts[key])
            newest = {}
        # Add what arrived before this moment.
        while at < ends[key] and events.arrived[by_key[at]] < moments.time[m]:
            value = int(events.value[by_key[at]]) & 0xFFFFFFFF
            newest[value] = max(newest.get(value, 0), int(events.time[by_key[at]]) // bucket_ms)
            at += 1
        counts = np.array([list(newest.values())], dtype=np.int64)
        numbers[m] = distinct_count(term, counts, moments.time[m : m + 1] // bucket_ms)[0]
    return numbers
