"""Item rows in the form that the graph reads: columns of keys and numbers, with a state per row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.layouts import Layouts, rows_of

KNOWN = 0
UNKNOWN = 1
CORRUPT = 2


@dataclass(slots=True)
class ItemRows:
    """Rows of candidates in their order: `keys` int64 `[C, K]`, `numerics` float32 `[C, N]`, `states` uint8 `[C]`."""

    keys: np.ndarray
    numerics: np.ndarray
    states: np.ndarray

    def put(self, places: Sequence[int], other: "ItemRows") -> None:
        """Set the rows at `places`."""
        self.keys[places] = other.keys
        self.numerics[places] = other.numerics
        self.states[places] = other.states


def rows_from_store(layouts: Layouts, item_ids: Sequence[str], packed: Sequence[bytes | None]) -> ItemRows:
    """Unpack the rows of `item_ids`. A row that is absent or has another length becomes the row of an unknown item."""
    layout = layouts.item
    size = layout.dtype.itemsize
    n = len(packed)
    states = np.zeros(n, dtype=np.uint8)

    # All rows fit: no Python per row.
    if None not in packed and set(map(len, packed)) <= {size}:  # type: ignore[arg-type]
        rows = rows_of(layout, b"".join(packed), n)  # type: ignore[arg-type]
        return ItemRows(rows["keys"], rows["numerics"], states)

    # Rows that do not fit become those of unknown items.
    places = [place for place, row in enumerate(packed) if row is None or len(row) != size]
    states[places] = [UNKNOWN if packed[place] is None else CORRUPT for place in places]
    default = bytes(size)
    filled = [default if state else row for state, row in zip(states.tolist(), packed, strict=True)]
    rows = rows_of(layout, b"".join(filled), n)  # type: ignore[arg-type]
    items = ItemRows(rows["keys"].copy(), rows["numerics"].copy(), states)
    unknown = unknown_rows(layouts, [item_ids[place] for place in places])
    items.keys[places] = unknown["keys"]
    items.numerics[places] = unknown["numerics"]
    return items


def unknown_rows(layouts: Layouts, item_ids: Sequence[str]) -> np.ndarray:
    """Return packed rows of items of which only the id is known."""
    name = layouts.schema.item_id_feature
    columns = {} if name is None else {name: np.array(item_ids, dtype=object)}
    return layouts.item.pack_columns(columns, len(item_ids))
