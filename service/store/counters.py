"""What the store writes and reads of a schema's counters: increments by key and cell, and the cells of a request."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from features import MISSING_KEY, key_of
from features.counters import CellLayout, Increment, increments
from features.layouts import Layouts

Cells = dict[str, Counter[Increment]]  # the increments of one key by the name of the cell, with how often each occurs


class CountedEvent(NamedTuple):
    """One event or impression as counters see it. `user_id` and `scene` may be unknown."""

    user_id: str | None
    item_id: str
    action: str
    scene: str | None
    time_ms: int


@dataclass(frozen=True)
class CounterWrites:
    """Increments by item, user and scene. The cell of an item or a scene has the name ``."""

    items: dict[str, Cells] = field(default_factory=dict)
    users: dict[str, Cells] = field(default_factory=dict)
    scenes: dict[str, Cells] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StoredCounters:
    """The cells of one request: those of its items, in their order, those of the user by name, and that of the scene.

    A cell that the store does not have is empty; None stands for one that could not be read.
    """

    items: list[bytes | None]
    user: Mapping[str, bytes] | None
    scene: bytes | None

    @property
    def unread(self) -> int:
        """How many cells could not be read."""
        return [*self.items, self.user, self.scene].count(None)


def id_key(entity_id: str) -> int:
    """The key of a user's or an item's id, signed 64-bit, as in tables."""
    return key_of("id", entity_id)


def cell_name(place: int, cell: int | None = None) -> str:
    """Return the name of a user's cell: the position of its layout, and its number if the layout has several."""
    return str(place) if cell is None else f"{place}:{cell}"


def counter_writes(
    layouts: Layouts, events: Iterable[CountedEvent], item_keys: Mapping[str, np.ndarray]
) -> CounterWrites:
    """The increments of events. `item_keys` has the keys int64 `[K]` of the items' rows, if a counter reads them."""
    writes = CounterWrites()
    for event in events:
        values = {"item": id_key(event.item_id), "user": MISSING_KEY}
        if event.user_id is not None:
            values["user"] = id_key(event.user_id)
        for place, layout in enumerate(layouts.counters):
            for name in layout.item_features:
                values[name] = int(item_keys[event.item_id][layouts.item.key_columns[name].start])
            _add(writes, place, layout, event, values)
    return writes


def _add(writes: CounterWrites, place: int, layout: CellLayout, event: CountedEvent, values: Mapping[str, int]) -> None:
    """Add the increments that one event makes to the cells of one layout."""
    by_key = {"item": writes.items, "user": writes.users, "scene": writes.scenes}[layout.by]
    key = {"item": event.item_id, "user": event.user_id, "scene": event.scene}[layout.by]
    if not key:
        return
    name = cell_name(place) if layout.by == "user" else ""
    if layout.item_feature is not None:
        value = values[layout.item_feature]
        if value == MISSING_KEY:
            return
        name = cell_name(place, value % layout.values)
    amounts = increments(layout, event.action, event.time_ms, values)
    if amounts:
        by_key.setdefault(key, {}).setdefault(name, Counter()).update(amounts)
