"""Owns the item rows that a worker keeps in memory: columns of keys and numbers, bounded in bytes, dropped when Redis says they changed.

Rows are held as the graph wants them, so that a request's rows are one `take` per column and no Python runs per candidate. An item that
Redis does not have is kept too, as the row of an unknown item, and goes the same way when it is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from sys import getsizeof
from time import monotonic

import numpy as np

from features.layouts import Layouts, rows_of
from service.store.keys import item_prefix

COUNTS = ("hits", "misses", "evictions", "invalidations")
KNOWN = 0
UNKNOWN = 1
CORRUPT = 2
# Beside its row an entry costs its id (at most 64 ASCII characters; longer ones are not kept), its slot number, its place in the dict and
# in the columns of ids, states and uses: this much at most.
_ENTRY_BYTES = 240
_LONGEST_ID = getsizeof("x" * 64)
_EVICTED_AT_ONCE = 16  # one part in so many


@dataclass(slots=True)
class ItemRows:
    """Rows of candidates in their order: `keys` int64 `[C, K]`, `numerics` float32 `[C, N]`, and `states` uint8 `[C]`."""

    keys: np.ndarray
    numerics: np.ndarray
    states: np.ndarray

    def put(self, places: Sequence[int], other: "ItemRows") -> None:
        """Set the rows at `places`."""
        self.keys[places] = other.keys
        self.numerics[places] = other.numerics
        self.states[places] = other.states


@dataclass(slots=True)
class Taken:
    """What the cache had for a request: `rows` with gaps at the places `missing`, and the count of `changes` at that time."""

    rows: ItemRows
    missing: list[int]
    changes: int


class ItemCache:
    """Item rows of one feature schema, at most `limit_bytes` of them; thread-bound, as the event loop that feeds it."""

    def __init__(self, layouts: Layouts, limit_bytes: int, ttl_seconds: float) -> None:
        self.prefix = item_prefix(layouts.fingerprint)
        self.ttl_seconds = ttl_seconds
        self.connection = 0  # the one on which Redis was asked to tell of changes
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

    def reset_counts(self) -> None:
        self.hits = self.misses = self.evictions = self.invalidations = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def bytes_used(self) -> int:
        """What the entries cost, counted as the limit counts them."""
        return len(self._slots) * self.row_bytes

    def take(self, item_ids: Sequence[str]) -> Taken:
        """A copy of the rows that are here, so that nothing which happens before the request is scored can take them away again."""
        if self._stale_at is not None and monotonic() >= self._stale_at:
            self.clear()
        found = list(map(self._slots.get, item_ids))
        missing: list[int] = []
        if None in found:
            missing = [place for place, slot in enumerate(found) if slot is None]
            found = [0 if slot is None else slot for slot in found]
        self.hits += len(found) - len(missing)
        self.misses += len(missing)
        if len(missing) == len(found):
            keys, numerics = (
                np.empty((len(found), column.shape[1]), column.dtype) for column in (self._keys, self._numerics)
            )
            return Taken(ItemRows(keys, numerics, np.zeros(len(found), np.uint8)), missing, self.changes)
        slots = np.array(found, dtype=np.intp)
        self._used[slots] = True
        return Taken(
            ItemRows(self._keys.take(slots, 0), self._numerics.take(slots, 0), self._states.take(slots)),
            missing,
            self.changes,
        )

    def keep(self, item_ids: Sequence[str], rows: ItemRows) -> None:
        """Put rows in that Redis has just sent; what does not fit stays out."""
        if max(map(getsizeof, item_ids)) > _LONGEST_ID:
            fitting = [place for place, item_id in enumerate(item_ids) if getsizeof(item_id) <= _LONGEST_ID]
            item_ids = [item_ids[place] for place in fitting]
            rows = ItemRows(rows.keys[fitting], rows.numerics[fitting], rows.states[fitting])
        if len(item_ids) > self.capacity:
            item_ids = item_ids[: self.capacity]
        if not item_ids:
            return
        known = list(map(self._slots.get, item_ids))
        if known.count(None) < len(known):  # another request brought some of them meanwhile
            self._drop([i for i, slot in zip(item_ids, known, strict=True) if slot is not None])
        n = len(item_ids)
        slots = self._room(n)
        self._keys[slots] = rows.keys[:n]
        self._numerics[slots] = rows.numerics[:n]
        self._states[slots] = rows.states[:n]
        self._ids[slots] = item_ids
        self._used[slots] = False
        self._slots.update(zip(item_ids, slots, strict=True))

    def _room(self, n: int) -> list[int]:
        """`n` free slots: returned ones, then new ones, then those of rows that have not been asked for lately."""
        free = self._free
        if len(free) < n:
            new = min(self.capacity, self._fresh_slot + max(n, self.capacity // _EVICTED_AT_ONCE))
            free.extend(range(self._fresh_slot, new))
            self._fresh_slot = new
        while len(free) < n:
            self._evict(max(n - len(free), self.capacity // _EVICTED_AT_ONCE))
        slots = free[-n:]
        del free[-n:]
        return slots

    def _evict(self, window: int) -> None:
        """The clock's hand goes over a window of slots: a row that was asked for since its last round stays, the others go."""
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
        """Redis says that an item's row has changed."""
        self.changes += 1
        self.invalidations += 1
        slot = self._slots.pop(item_id, None)
        if slot is not None:
            self._ids[slot] = None
            self._free.append(slot)

    def clear(self) -> None:
        """Nothing that is here may be trusted any more."""
        self.changes += 1
        self._ids[: self._fresh_slot] = None
        self._slots.clear()
        self._free.clear()
        self._fresh_slot = self._hand = 0
        if self._stale_at is not None:
            self._stale_at = monotonic() + self.ttl_seconds

    def start_over(self, connection: int, told: bool) -> None:
        """Empty, for a new connection: `told` is whether Redis tells of changes on it. Where it does not, no row stays for long."""
        self.connection = connection
        self._stale_at = None if told else monotonic() + self.ttl_seconds
        self.clear()


def rows_from_store(layouts: Layouts, item_ids: Sequence[str], packed: Sequence[bytes | None]) -> ItemRows:
    """Rows as they came; one that is absent or of another length than the schema's is an unknown item's."""
    layout = layouts.item
    size = layout.dtype.itemsize
    n = len(packed)
    states = np.zeros(n, dtype=np.uint8)
    if None not in packed and set(map(len, packed)) <= {size}:  # type: ignore[arg-type]
        rows = rows_of(layout, b"".join(packed), n)  # type: ignore[arg-type]
        return ItemRows(rows["keys"], rows["numerics"], states)
    places = [place for place, row in enumerate(packed) if row is None or len(row) != size]
    states[places] = [UNKNOWN if packed[place] is None else CORRUPT for place in places]
    default = bytes(size)
    filled = [default if state else row for state, row in zip(states.tolist(), packed, strict=True)]
    rows = rows_of(layout, b"".join(filled), n)  # type: ignore[arg-type]
    made = ItemRows(rows["keys"].copy(), rows["numerics"].copy(), states)
    unknown = unknown_rows(layouts, [item_ids[place] for place in places])
    made.keys[places] = unknown["keys"]
    made.numerics[places] = unknown["numerics"]
    return made


def unknown_rows(layouts: Layouts, item_ids: Sequence[str]) -> np.ndarray:
    """Packed rows of items of which nothing but the id is known."""
    name = layouts.schema.item_id_feature
    columns = {} if name is None else {name: np.array(item_ids, dtype=object)}
    return layouts.item.pack_columns(columns, len(item_ids))
