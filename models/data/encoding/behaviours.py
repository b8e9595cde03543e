"""Encodes the behaviours of all users as one array by user and time, and finds those that an impression may see."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from features import keys_of_column
from features.times import latest_now_ms
from models.data.arrays import ArrayFile, new_array, read_array
from models.data.encoding.entities import Entities
from models.recipe import Recipe
from tables import Table

BATCH_ROWS = 1 << 16

EVENT = np.dtype([("user", "<i4"), ("item", "<i4"), ("time", "<i8"), ("action", "<i8"), ("scene", "<i8")])


def encode_behaviours(
    table: Table, recipe: Recipe, users: Entities, items: Entities, with_impressions: np.ndarray, folder: Path
) -> tuple[np.ndarray, int]:
    """Write `folder/events` (EVENT, by user and time).

    Returns each user's first index int64 `[users + 1]`, and how many duplicates were dropped: of behaviours that are
    equal in every column, one is used, as in the store. Users without impressions (`with_impressions` bool `[users]`)
    are left out.

    It takes two passes over the disk, and memory for about one batch plus 16 bytes per user: batches are written to
    disk in the table's order, moved to their user's range, then every user's range is sorted.
    """
    # Write the events in the table's order, and count them by user.
    counts = np.zeros(len(with_impressions) + 1, dtype=np.int64)
    spill = folder / "events.spill"
    with ArrayFile(spill, EVENT) as file:
        for events in _read(table, recipe, users, items, with_impressions):
            counts[1:] += np.bincount(events["user"], minlength=len(with_impressions))
            file.append(events)
    # Move each to its user's range, then sort every range and drop duplicates.
    starts = np.cumsum(counts)
    placed = _by_user(read_array(spill, EVENT), starts, folder / "events.placed")
    distinct = np.zeros_like(counts)
    with ArrayFile(folder / "events", EVENT) as file:
        for first, last in _stretches(starts):
            events = _sorted(np.array(placed[starts[first] : starts[last]]))
            # Served behaviours stay as the ranking had them.
            if not recipe.data.served:
                events = _distinct(events)
            distinct[1:] += np.bincount(events["user"], minlength=len(with_impressions))
            file.append(events)
    for path in (spill, folder / "events.placed"):
        path.unlink()
    return np.cumsum(distinct), int(counts.sum() - distinct.sum())


def _read(
    table: Table, recipe: Recipe, users: Entities, items: Entities, with_impressions: np.ndarray
) -> Iterator[np.ndarray]:
    data = recipe.data
    schema = recipe.features.behaviour
    assert schema is not None
    why = "features.behaviour"
    for name, column in (("user_id", data.user_row), ("item_id", data.item_row), ("time_ms", data.time_ms)):
        table.require({column: f"data.{name}"}, f"; data.{name} names the column in all tables")
    table.require({"action": why, "scene": why})
    for read in table.batches([data.user_row, data.item_row, "action", "scene", data.time_ms]):
        # The load refuses a bad time of any user, so training does too.
        times = read.times(data.time_ms, latest_now_ms())
        user = users.known_index_of(read, data.user_row)
        used = np.flatnonzero((user >= 0) & with_impressions[np.maximum(user, 0)])
        batch = read.selection(used)
        events = np.empty(len(used), dtype=EVENT)
        events["user"] = user[used]
        events["item"] = items.index_of(batch, data.item_row)
        events["time"] = times[used]
        for name, vocabulary in (("action", schema.action_vocabulary), ("scene", schema.scene_vocabulary)):
            events[name] = batch.keys(name, partial(keys_of_column, vocabulary, field=name))
        yield events


def _by_user(spilled: np.ndarray, starts: np.ndarray, path: Path) -> np.ndarray:
    """Group the written events by user; within a user they keep the table's order."""
    placed = new_array(path, EVENT, len(spilled))
    cursor = starts[:-1].copy()
    for begin in range(0, len(spilled), BATCH_ROWS):
        events = np.array(spilled[begin : begin + BATCH_ROWS])
        events = events[np.argsort(events["user"], kind="stable")]
        users, first, count = np.unique(events["user"], return_index=True, return_counts=True)
        within = np.arange(len(events)) - np.repeat(first, count)
        placed[np.repeat(cursor[users], count) + within] = events
        cursor[users] += count
    return placed


def _stretches(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return ranges of users whose events fit into a batch (or a single user, if this user's events do not fit)."""
    first = 0
    users = len(starts) - 1
    while first < users:
        last = int(np.searchsorted(starts, starts[first] + 8 * BATCH_ROWS, side="right")) - 1
        last = min(max(last, first + 1), users)
        yield first, last
        first = last


def _sorted(events: np.ndarray) -> np.ndarray:
    return np.asarray(events[np.lexsort((events["time"], events["user"]))])  # stable: equal times keep their order


def _distinct(events: np.ndarray) -> np.ndarray:
    order = np.lexsort(
        (np.arange(len(events)), events["scene"], events["action"], events["item"], events["time"], events["user"])
    )
    by_value = events[order]
    repeat = np.zeros(len(events), dtype=bool)
    repeat[order[1:]] = by_value[1:] == by_value[:-1]
    return np.asarray(events[~repeat])


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
