"""Finds the behaviours that each impression sees, and how many training impressions see each behaviour."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from features.times import LATEST_MS
from models.data.arrays import ArrayFile, new_array, read_array
from models.data.split import PARTS
from models.data.stored.buckets import MOST_BUCKETS, Buckets
from models.recipe import Recipe

CHUNK = 1 << 20
VIEWS = "events.views"
_IMPRESSION = np.dtype([("place", "<i8"), ("user", "<i4"), ("time", "<i8")])
_EVENT_BYTES = 40  # in memory: the time, and the views as they are counted
_IMPRESSION_BYTES = 120  # in memory, while its range is searched


def write_ranges(recipe: Recipe, folder: Path, events: np.ndarray | None, starts: np.ndarray) -> None:
    """Write `folder/<part>.start` and `.end` int64 `[n]`: the events that each impression sees; and VIEWS int64
    `[events]`: the number of training impressions that see each event.

    `starts` int64 `[users + 1]`: each user's first event. Users are taken in ranges whose events and impressions fit
    into memory.
    """
    users = {part: read_array(folder / f"{part}.user", np.int32) for part in PARTS}
    times = {part: read_array(folder / f"{part}.time", np.int64) for part in PARTS}
    starts_of = {part: new_array(folder / f"{part}.start", np.int64, len(users[part])) for part in PARTS}
    ends_of = {part: new_array(folder / f"{part}.end", np.int64, len(users[part])) for part in PARTS}
    if events is None:
        return
    behaviour = recipe.features.behaviour
    length = behaviour.max_length if behaviour else 0
    lag_ms = round(recipe.data.behaviour_lag_s * 1000)
    bounds = _bounds(users, starts, recipe.data.memory_bytes // 2)
    spills = {part: Buckets(folder / f"{part}.ranges", _IMPRESSION, len(bounds) - 1) for part in PARTS}
    with spills["train"], spills["validation"], spills["test"], ArrayFile(folder / VIEWS, np.int64) as views:
        for part in PARTS:
            for rows in _impressions(users[part], times[part]):
                spills[part].append(rows, np.searchsorted(bounds, rows["user"], side="right") - 1)
        for i, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            # The events of a range of users, and where each user's begin among them.
            offset = int(starts[first])
            time = np.array(events["time"][offset : starts[last]])
            begin = starts[first : last + 1] - offset
            for part in PARTS:
                rows = spills[part].read(i)
                # A served row of a user has exactly the behaviours that the ranking saw.
                before = np.full(len(rows), LATEST_MS + 1) if recipe.data.served else rows["time"] - lag_ms
                start, end = visible_range(time, begin, rows["user"] - first, before, length)
                starts_of[part][rows["place"]] = start + offset
                ends_of[part][rows["place"]] = end + offset
                if part == "train":
                    views.append(_views(start, end, len(time)))


def _bounds(users: Mapping[str, np.ndarray], starts: np.ndarray, memory_bytes: int) -> np.ndarray:
    """The first user of each range, and the number of users, int64: ranges take about the same memory."""
    n = len(starts) - 1
    load = np.diff(starts) * _EVENT_BYTES
    for user in users.values():
        for begin in range(0, len(user), CHUNK):
            load += np.bincount(user[begin : begin + CHUNK], minlength=n) * _IMPRESSION_BYTES
    total = np.cumsum(load)
    count = min(max(1, -(-int(total[-1]) // memory_bytes)), MOST_BUCKETS)
    inner = np.searchsorted(total, np.arange(1, count) * (total[-1] / count))
    return np.unique(np.concatenate([[0], inner, [n]])).astype(np.int64)


def _impressions(user: np.ndarray, time: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(user), CHUNK):
        rows = np.empty(len(user[begin : begin + CHUNK]), dtype=_IMPRESSION)
        rows["place"] = begin + np.arange(len(rows))
        rows["user"] = user[begin : begin + CHUNK]
        rows["time"] = time[begin : begin + CHUNK]
        yield rows


def _views(start: np.ndarray, end: np.ndarray, events: int) -> np.ndarray:
    """How many of the ranges [start, end) contain each event, int64 `[events]`."""
    change = np.bincount(start, minlength=events + 1) - np.bincount(end, minlength=events + 1)
    return np.cumsum(change)[:-1]


def visible_range(
    times: np.ndarray, starts: np.ndarray, user: np.ndarray, before_ms: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the range [start, end) of the newest `max_length` events before `before_ms` of each user, int64 `[n]`
    each.

    This is a vectorised binary search: `times` are ascending within a user, and users' ranges begin at `starts`.
    """
    low = starts[user].copy()
    high = starts[user + 1].copy()
    first = low.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        older = np.zeros(len(user), dtype=bool)
        older[open_] = times[middle[open_]] < before_ms[open_]
        low = np.where(open_ & older, middle + 1, low)
        high = np.where(open_ & ~older, middle, high)
    return np.maximum(first, low - max_length), low
