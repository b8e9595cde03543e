"""Sorts the behaviours of all users into one array by user and time."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from models.data.arrays import ArrayFile
from models.data.encoding.entities import Entities
from models.data.stored.buckets import Buckets, bucket_threads
from models.data.stored.ordered import in_order
from models.data.stored.partition import EncodedFile
from models.recipe import Recipe

_SORTED_BYTES = 160  # of an event in memory, while those of a bucket are sorted: the rows, a copy, and three orders
_SAMPLED_ROWS = 1_000_000
EVENT = np.dtype([("user", "<i4"), ("item", "<i4"), ("time", "<i8"), ("action", "<i8"), ("scene", "<i8")])


def merge_behaviours(
    partitions: Sequence[EncodedFile],
    recipe: Recipe,
    users: Entities,
    items: Entities,
    with_impressions: np.ndarray,
    folder: Path,
) -> tuple[np.ndarray, int]:
    """Write `folder/events` (EVENT, by user and time).

    Returns each user's first index int64 `[users + 1]`, and how many duplicates were dropped: of behaviours that are
    equal in every column, one is used, as in the store. Users without impressions (`with_impressions` bool `[users]`)
    are left out.

    Events go through the disk into ranges of users that fit into memory; each range is sorted by itself.
    """
    n = len(with_impressions)
    memory = recipe.data.memory_bytes // 2
    rows = sum(partition.rows for partition in partitions)
    count, threads = bucket_threads(rows, _SORTED_BYTES, memory, recipe.data.threads)
    distinct = np.zeros(n + 1, dtype=np.int64)
    every = 0
    with Buckets(folder / "events.spill", EVENT, count) as buckets, ArrayFile(folder / "events", EVENT) as file:
        first_users = _first_users(partitions, users, with_impressions, count)
        for events in _batches(partitions, users, items, with_impressions):
            every += len(events)
            buckets.append(events, np.searchsorted(first_users, events["user"], side="right"))
        # Ranges of users ascend, so that sorted ranges follow each other in the order of users.
        for events in in_order(partial(_ordered, buckets, recipe.data.served), range(count), threads):
            if len(events):
                first = int(events["user"][0])
                of_range = np.bincount(events["user"] - first)
                distinct[1 + first : 1 + first + len(of_range)] += of_range
            file.append(events)
    starts = np.cumsum(distinct)
    return starts, int(every - starts[-1])


def _first_users(
    partitions: Sequence[EncodedFile], users: Entities, with_impressions: np.ndarray, count: int
) -> np.ndarray:
    """The first user of every range of users but the first range, int64 `[count - 1]`.

    The ranges have about equally many events, by a sample of them: in most logs a few users have most events, and
    ranges of equally many users would not fit into memory.
    """
    step = max(1, sum(partition.rows for partition in partitions) // _SAMPLED_ROWS)
    sampled = [np.zeros(0, dtype=np.int64)]
    for partition in partitions:
        user = users.known_places(partition.array("user", np.int64)[::step])
        sampled.append(user[_is_used(user, with_impressions)])
    ordered = np.sort(np.concatenate(sampled))
    if not len(ordered):
        return np.zeros(count - 1, dtype=np.int64)
    return np.asarray(ordered[np.arange(1, count) * len(ordered) // count])


def _is_used(user: np.ndarray, with_impressions: np.ndarray) -> np.ndarray:
    """Whether each event's user, -1 if unknown, has impressions, bool `[n]`."""
    return np.asarray((user >= 0) & with_impressions[np.maximum(user, 0)])


def _batches(
    partitions: Sequence[EncodedFile], users: Entities, items: Entities, with_impressions: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the events of users with impressions, batch by batch as they were read."""
    for partition in partitions:
        arrays = {name: partition.array(name, np.int64) for name in ("user", "item", "time", "action", "scene")}
        ids = partition.ids("item")
        begin = 0
        for rows in partition.batches:
            columns = {name: values[begin : begin + rows] for name, values in arrays.items()}
            begin += rows
            user = users.known_places(columns["user"])
            used = np.flatnonzero(_is_used(user, with_impressions))
            events = np.empty(len(used), dtype=EVENT)
            events["user"] = user[used]
            events["item"] = items.index_of(columns["item"][used], ids)
            for name in ("time", "action", "scene"):
                events[name] = columns[name][used]
            yield events


def _ordered(buckets: Buckets, served: bool, bucket: int) -> np.ndarray:
    """The events of a bucket by user and time; served behaviours stay as the ranking had them, others occur once."""
    events = _sorted(buckets.read(bucket))
    return events if served else _distinct(events)


def _sorted(events: np.ndarray) -> np.ndarray:
    return np.asarray(events[np.lexsort((events["time"], events["user"]))])  # stable: equal times keep their order


def _distinct(events: np.ndarray) -> np.ndarray:
    """Events by user and time without those that are equal to an earlier one."""
    # Equal events have an equal user and time, so that only those with such a neighbour are compared.
    same = (events["user"][1:] == events["user"][:-1]) & (events["time"][1:] == events["time"][:-1])
    places = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    tied = events[places]
    order = np.lexsort((places, tied["scene"], tied["action"], tied["item"], tied["time"], tied["user"]))
    by_value = tied[order]
    repeat = np.zeros(len(events), dtype=bool)
    repeat[places[order[1:]]] = by_value[1:] == by_value[:-1]
    return np.asarray(events[~repeat])
