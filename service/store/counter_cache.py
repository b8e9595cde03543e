"""The cells of items' counters that a worker keeps in memory for a short time.

They change with every event, so that the store does not announce changes: a cell is at most `ttl_seconds` old.
"""

from collections.abc import Mapping, Sequence
from time import monotonic

from features.counters import ENTRY_BYTES
from features.layouts import Layouts

_PART = 8  # of the item cache's bytes
_ENTRY_BYTES = 240  # of an entry beside its cell, at most: the id, and its place in the dict


class CounterCache:
    """Cells by item id, at most an eighth of `limit_bytes`. All are dropped together, when the first may be too old."""

    def __init__(self, layouts: Layouts, limit_bytes: int, ttl_seconds: float) -> None:
        cell_bytes = sum(layout.entries for layout in layouts.counters if layout.by == "item") * ENTRY_BYTES
        self.capacity = limit_bytes // _PART // (cell_bytes + _ENTRY_BYTES)
        self._ttl_seconds = ttl_seconds
        self._cells: dict[str, bytes] = {}
        self._stale_at = 0.0

    def take(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """The cells of items; None for an item whose cell has to be read."""
        if monotonic() >= self._stale_at:
            self.clear()
        return list(map(self._cells.get, item_ids))

    def keep(self, cells: Mapping[str, bytes]) -> None:
        """Add cells that the store has just sent. Without room, all others are dropped first."""
        if len(cells) > self.capacity:
            return
        if len(self._cells) + len(cells) > self.capacity:
            self.clear()
        if not self._cells:
            self._stale_at = monotonic() + self._ttl_seconds
        self._cells.update(cells)

    def clear(self) -> None:
        """Drop every cell."""
        self._cells.clear()
