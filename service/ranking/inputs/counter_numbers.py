"""Computes the numbers of a request's counters from the stored cells."""

from collections.abc import Mapping

import numpy as np

from features import MISSING_KEY
from features.counters import ENTRY, CellLayout, numbers_of
from features.layouts import COUNTER_INPUT, Layouts
from service.store.base import StoredRows
from service.store.counters import StoredCounters, cell_name


def put_counters(
    layouts: Layouts, inputs: dict[str, np.ndarray], stored: StoredRows | None, scene: str | None, moment_ms: int
) -> None:
    """Add the input `counter_numerics` if the schema has counters. All are missing if the store is away (`stored` is
    None).
    """
    if layouts.counters:
        cells = None if stored is None else stored.counters
        inputs[COUNTER_INPUT] = counter_numerics(layouts, cells, inputs["item_keys"], scene, moment_ms)


def counter_numerics(
    layouts: Layouts, stored: StoredCounters | None, item_keys: np.ndarray, scene: str | None, moment_ms: int
) -> np.ndarray:
    """The input `counter_numerics` float32 `[C, K]` of candidates with keys int64 `[C, ...]`.

    NaN if a cell could not be read (`stored` is None: none was), the request has no scene, or a candidate has no value
    of the feature that a counter counts by.
    """
    numbers = np.full((len(item_keys), len(layouts.schema.counters)), np.nan, dtype=np.float32)
    if stored is None:
        return numbers
    for place, layout in enumerate(layouts.counters):
        columns = list(layout.places)
        if layout.by == "item":
            known = [at for at, cell in enumerate(stored.items) if cell is not None]
            if known:
                cells = [cell for cell in stored.items if cell is not None]
                numbers[np.ix_(known, columns)] = _numbers(layout, cells, moment_ms)
        elif layout.by == "scene":
            if scene and stored.scene is not None:
                numbers[:, columns] = _numbers(layout, [stored.scene], moment_ms)
        elif stored.user is not None:
            keys = None
            if layout.item_feature is not None:
                keys = item_keys[:, layouts.item.key_columns[layout.item_feature].start]
            numbers[:, columns] = _of_user(layout, place, stored.user, keys, moment_ms)
    return numbers


def _of_user(
    layout: CellLayout, place: int, cells: Mapping[str, bytes], keys: np.ndarray | None, moment_ms: int
) -> np.ndarray:
    """Numbers `[1, k]` of the user, or `[C, k]` of the user and the candidates' values of a feature, keys `[C]`."""
    empty = bytes(layout.entries * ENTRY.itemsize)
    if keys is None:
        return _numbers(layout, [cells.get(cell_name(place), empty)], moment_ms)
    # The stored cells of this layout, and an empty one at the end, which stands for all others.
    title = cell_name(place, 0)[:-1]
    cells_of_layout = {int(name[len(title) :]): cell for name, cell in cells.items() if name.startswith(title)}
    numbers = _numbers(layout, [*cells_of_layout.values(), empty], moment_ms)
    place_of = np.full(layout.values, len(cells_of_layout))
    place_of[list(cells_of_layout)] = np.arange(len(cells_of_layout))
    of_candidates = np.asarray(numbers[place_of[keys % layout.values]])
    of_candidates[keys == MISSING_KEY] = np.nan
    return of_candidates


def _numbers(layout: CellLayout, cells: list[bytes], moment_ms: int) -> np.ndarray:
    return numbers_of(layout, np.frombuffer(b"".join(cells), ENTRY).reshape(len(cells), layout.entries), moment_ms)
