"""The item rows that a worker keeps in memory: columns of keys and numbers, limited in bytes.

Rows are stored in the graph's own form, so the rows of a request are one `take` per column and no Python code runs per
candidate. An item that the store does not have is cached too, as the row of an unknown item. The cache does not depend
on a database: the code that fills it also reports which rows have changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from sys import getsizeof
from time import monotonic

import numpy as np

from features.layouts import Layouts
from service.store.counter_cache import CounterCache
from service.store.item_rows import ItemRows

COUNTS = ("hits", "misses", "evictions", "invalidations")
# The largest size of an entry besides its row: its id (at most 64 ASCII characters; longer ones are not cached), its
# slot number, its entry in the dict and in the columns of ids, states and uses.
_ENTRY_BYTES = 240
_LONGEST_ID = getsizeof("x" * 64)
_EVICTED_AT_ONCE = 16  # one part in so many


@dataclass(slots=True)
class CachedRows:
    """The cached rows of a request: `rows` with gaps at the positions `missing`, and the count of `changes` at that
    time.
    """

    rows: ItemRows
    missing: list[int]
    changes: int


class ItemCache:
    """Item rows of one feature schema, in at most `limit_bytes`. Not thread-safe: only one event loop may use it."""

    def __init__(self, layouts: Layouts, limit_bytes: int, ttl_seconds: float) -> None:
        self.fingerprint = layouts.fingerprint
        self.ttl_seconds = ttl_seconds
        self.connection = 0  # the one on which the store announces changes
        self.row_bytes = layouts.item.dtype.itemsize + _ENTRY_BYTES
        self.capacity = limit_bytes // self.row_bytes
        self.changes = 0
        self.reset_counts()
        self._keys = np.empty((self.capacity, layouts.item.key_width), dtype=np.int64)
        self._numerics = np.empty((self.capacity, layouts.item.numeric_width), dtype=np.float32)
        self._states = np.zeros(self.capacity, dtype=np.uint8)
        self._used = np.zeros(self.capacity, dtype=bool)
        self._ids = np.empty(self.capacity, dtype=object)
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._fresh_slot = 0  # slots from here on were never used
        self._hand = 0
        self._stale_at: float | None = None
        self.counters = CounterCache(layouts, limit_bytes, ttl_seconds)

    def reset_counts(self) -> None:
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.invalidations = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def bytes_used(self) -> int:
        """The size of the entries in bytes, counted in the same way as for the limit."""
        return len(self._slots) * self.row_bytes

    def take(self, item_ids: Sequence[str]) -> CachedRows:
        """Return a copy of the cached rows, so that later changes of the cache do not affect the request."""
        if self._stale_at is not None and monotonic() >= self._stale_at:
            self.clear()
        n = len(item_ids)
        slots_of_ids = list(map(self._slots.get, item_ids))
        missing: list[int] = []
        if None in slots_of_ids:
            missing = [place for place, slot in enumerate(slots_of_ids) if slot is None]
            slots_of_ids = [0 if slot is None else slot for slot in slots_of_ids]
        self.hits += n - len(missing)
        self.misses += len(missing)

        # A cache without capacity has no row to fill the gaps with.
        if len(missing) == n:
            keys = np.empty((n, self._keys.shape[1]), self._keys.dtype)
            numerics = np.empty((n, self._numerics.shape[1]), self._numerics.dtype)
            return CachedRows(ItemRows(keys, numerics, np.zeros(n, np.uint8)), missing, self.changes)
        slots = np.array(slots_of_ids, dtype=np.intp)
        self._used[slots] = True
        rows = ItemRows(self._keys.take(slots, 0), self._numerics.take(slots, 0), self._states.take(slots))
        return CachedRows(rows, missing, self.changes)

    def keep(self, item_ids: Sequence[str], rows: ItemRows) -> None:
        """Add rows that the store has just sent. Rows without room are left out."""
        if not item_ids or not self.capacity:
            return
        if max(map(getsizeof, item_ids)) > _LONGEST_ID:
            fitting = [place for place, item_id in enumerate(item_ids) if getsizeof(item_id) <= _LONGEST_ID]
            item_ids = [item_ids[place] for place in fitting]
            rows = ItemRows(rows.keys[fitting], rows.numerics[fitting], rows.states[fitting])
        if len(item_ids) > self.capacity:
            item_ids = item_ids[: self.capacity]
        if not item_ids:
            return

        # Another request may have read some of these rows meanwhile.
        slots_of_ids = list(map(self._slots.get, item_ids))
        if slots_of_ids.count(None) < len(slots_of_ids):
            self._drop([i for i, slot in zip(item_ids, slots_of_ids, strict=True) if slot is not None])

        n = len(item_ids)
        slots = self._room(n)
        self._keys[slots] = rows.keys[:n]
        self._numerics[slots] = rows.numerics[:n]
        self._states[slots] = rows.states[:n]
        self._ids[slots] = item_ids
        self._used[slots] = False
        self._slots.update(zip(item_ids, slots, strict=True))

    def _room(self, n: int) -> list[int]:
        """Return `n` free slots: first freed slots, then unused ones, then those of rows that were not used lately."""
        free = self._free
        if len(free) < n:
            end = min(self.capacity, self._fresh_slot + max(n, self.capacity // _EVICTED_AT_ONCE))
            free.extend(range(self._fresh_slot, end))
            self._fresh_slot = end
        while len(free) < n:
            self._evict(max(n - len(free), self.capacity // _EVICTED_AT_ONCE))
        slots = free[-n:]
        del free[-n:]
        return slots

    def _evict(self, window: int) -> None:
        """Second chance (the clock algorithm): in a window of slots, evict the rows that were not used since the last
        round.
        """
        end = min(self._hand + window, self.capacity)
        idle = np.flatnonzero(~self._used[self._hand : end]) + self._hand
        self._used[self._hand : end] = False
        self._hand = 0 if end == self.capacity else end
        victims = [i for i in self._ids[idle].tolist() if i is not None]
        self.evictions += len(victims)
        self._drop(victims)

    def _drop(self, item_ids: list[str]) -> None:
        slots = list(map(self._slots.pop, item_ids))
        self._ids[slots] = None
        self._free.extend(slots)

    def forget(self, item_id: str) -> None:
        """Remove the row of an item, because the store reports that it has changed."""
        self.changes += 1
        self.invalidations += 1
        slot = self._slots.pop(item_id, None)
        if slot is not None:
            self._ids[slot] = None
            self._free.append(slot)

    def clear(self) -> None:
        """Drop every row."""
        self.changes += 1
        self.counters.clear()
        self._ids[: self._fresh_slot] = None
        self._slots.clear()
        self._free.clear()
        self._fresh_slot = 0
        self._hand = 0
        if self._stale_at is not None:
            self._stale_at = monotonic() + self.ttl_seconds

    def start_over(self, connection: int, announced: bool) -> None:
        """Empty the cache for a new connection. If changes are not `announced` on it, rows expire after
        `ttl_seconds`.
        """
        self.connection = connection
        self._stale_at = None if announced else monotonic() + self.ttl_seconds
        self.clear()
