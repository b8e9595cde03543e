"""Owns which part of the data an impression belongs to."""

from collections.abc import Mapping

import numpy as np

from features.keys import text_of
from models.data.tables import Table, times_ms
from models.recipe.recipe import DataSection, TimeSplit

PARTS = ("train", "validation", "test")
UNUSED = -1


def split_columns(data: DataSection) -> dict[str, str]:
    """The columns of impressions that the split reads, and what in the recipe names them."""
    if isinstance(data.split, TimeSplit):
        return {data.time_ms: "data.split (by time)"}
    return {data.split.column: "data.split.column"}


def part_of(data: DataSection, columns: Mapping[str, np.ndarray], table: Table) -> np.ndarray:
    """Index into PARTS of each impression, or UNUSED, int64 `[n]`."""
    split = data.split
    if isinstance(split, TimeSplit):
        times = times_ms(columns[data.time_ms], table, data.time_ms)
        part = np.full(len(times), UNUSED, dtype=np.int64)
        for i, (start, end) in enumerate((split.train, split.validation, split.test)):
            part[(times >= start.timestamp() * 1000) & (times < end.timestamp() * 1000)] = i
        return part
    place = {text_of(value, split.column): i for i, name in enumerate(PARTS) for value in getattr(split, name)}
    return np.array(
        [place.get(text_of(v, split.column), UNUSED) for v in columns[split.column].tolist()], dtype=np.int64
    )
