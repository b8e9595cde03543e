"""The items that a user was shown or acted on, as one packed value per user: item keys and times.

One entry has 16 bytes: the item's key, and twice its time in milliseconds plus 1 for an action of the user, both
little-endian int64. Entries are in the order of arrival; the store keeps the newest.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from features import key_of

DAY_MS = 86_400_000
KEPT_ENTRIES = 1000  # per user; 16 KB at most
_VOCABULARY = "shown_item"  # of the keys by which entries name items
_ENTRY = np.dtype([("key", "<i8"), ("stamp", "<i8")])
ENTRY_BYTES = _ENTRY.itemsize


@lru_cache(maxsize=20_000)
def shown_key(item_id: str) -> int:
    """The key of an item in entries, signed 64-bit."""
    return key_of(_VOCABULARY, item_id)


class ShownItem(NamedTuple):
    """One item that a user was shown or acted on (`acted`), at a time in milliseconds."""

    user_id: str
    item_id: str
    time_ms: int
    acted: bool


@dataclass(frozen=True, eq=False)
class Exposures:
    """The items that one user was shown or acted on: item keys int64 `[n]`, times in milliseconds int64 `[n]`, `acted`
    bool `[n]`, in any order.
    """

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    times_ms: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    acted: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def within(self, start_ms: float, end_ms: float, shown_only: bool = False) -> np.ndarray:
        """The item keys from one time to another, both included, one per entry."""
        counts = (self.times_ms >= start_ms) & (self.times_ms <= end_ms)
        if shown_only:
            counts &= ~self.acted
        return np.asarray(self.keys[counts])


def exposures_of(packed: bytes | None) -> Exposures:
    """Parse a packed value whose length is a multiple of an entry's; None gives no entries."""
    if not packed:
        return Exposures()
    entries = np.frombuffer(packed, dtype=_ENTRY)
    return Exposures(entries["key"], entries["stamp"] >> 1, (entries["stamp"] & 1).astype(bool))


def packed_by_user(items: Iterable[ShownItem]) -> dict[str, bytes]:
    """Pack the entries of each user, in the given order, up to `KEPT_ENTRIES`."""
    by_user: dict[str, list[tuple[int, int]]] = {}
    for item in items:
        entry = (shown_key(item.item_id), 2 * item.time_ms + int(item.acted))
        by_user.setdefault(item.user_id, []).append(entry)
    return {
        user_id: np.array(list(dict.fromkeys(entries))[-KEPT_ENTRIES:], dtype=_ENTRY).tobytes()
        for user_id, entries in by_user.items()
    }
