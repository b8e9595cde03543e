"""Assigns every impression to a part of the data: train, validation or test."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from features.keys import text_of
from features.nearest import near_names
from features.times import latest_now_ms
from models.data.arrays import ArrayFile, read_array
from models.recipe import RecipeError
from models.recipe.sections.data import ColumnSplit, DataSection, TimeSplit
from tables import Batch, Table
from tables.reading import file_batches

PARTS = ("train", "validation", "test")
UNUSED = -1
PART_TYPE = np.int8  # of a part in a file
_MOST_SEEN = 10_000  # distinct values that are remembered for a message


def split_columns(data: DataSection) -> dict[str, str]:
    """Return the columns of impressions that the split reads, and the recipe keys that name them."""
    if isinstance(data.split, TimeSplit):
        return {data.time_ms: "data.split (by time)"}
    return {data.split.column: "data.split.column"}


class Splitter:
    """Assigns each impression to its part, and records the values of the split's column."""

    def __init__(self, data: DataSection) -> None:
        self._data = data
        self._seen: Counter[str] = Counter()

    def part_of(self, batch: Batch) -> np.ndarray:
        """Index into PARTS of each impression, or UNUSED, int64 `[n]`. Raises TableError."""
        split = self._data.split
        if isinstance(split, TimeSplit):
            times = batch.times(self._data.time_ms, latest_now_ms())
            part = np.full(len(times), UNUSED, dtype=np.int64)
            for i, (start, end) in enumerate((split.train, split.validation, split.test)):
                part[(times >= start.timestamp() * 1000) & (times < end.timestamp() * 1000)] = i
            return part
        place = {text_of(value, split.column): i for i, name in enumerate(PARTS) for value in getattr(split, name)}
        texts = batch.texts(split.column)
        for text, count in Counter(texts).items():
            if text in self._seen or text in place or len(self._seen) < _MOST_SEEN:
                self._seen[text] += count
        return np.array([place.get(text, UNUSED) for text in texts], dtype=np.int64)

    def unmatched(self) -> list[str]:
        """One warning per part with values that no row has.

        Raises RecipeError if a value is the octal reading of one that rows have: YAML takes 0430 for 280.
        """
        split = self._data.split
        return list(_unmatched(split, self._seen)) if isinstance(split, ColumnSplit) else []


class SplitParts:
    """The part of every impression, in the order of the table, in a file: int8 `[n]`.

    `counts`: the rows of each file of the table; `unmatched`: warnings about values that the split lists in vain.
    """

    def __init__(self, data: DataSection, impressions: Table, path: Path) -> None:
        """Read the columns of the split. Raises TableError and RecipeError."""
        self.path = path
        self.counts: list[int] = []
        splitter = Splitter(data)
        columns = list(split_columns(data))
        kinds = impressions.column_kinds(columns)
        with ArrayFile(path, PART_TYPE) as written:
            for file in impressions.files:
                self.counts.append(0)
                for batch in file_batches(file, impressions.role, columns, (), kinds):
                    written.append(splitter.part_of(batch))
                    self.counts[-1] += len(batch)
        self.parts = read_array(path, PART_TYPE)
        self.unmatched = splitter.unmatched()

    @property
    def unused(self) -> int:
        """The number of impressions in no part."""
        return int((self.parts < 0).sum())

    def rows_of(self, table: Table) -> list[int]:
        """The rows of each file of the impressions; 0 for those of another table, which have no parts."""
        return self.counts if table.role == "impressions" else [0] * len(table.files)

    def used(self, first: int, rows: int) -> bytes:
        """Which of some rows are in a part, as bits."""
        return np.packbits(self.parts[first : first + rows] >= 0).tobytes() + rows.to_bytes(8, "big")


def _unmatched(split: ColumnSplit, seen: Counter[str]) -> Iterator[str]:
    for part in PARTS:
        absent = [value for value in getattr(split, part) if not seen[text_of(value, split.column)]]
        if not absent:
            continue
        shown = ", ".join(map(str, absent))
        verb = "does" if len(absent) == 1 else "do"
        message = f"data.split.{part}: {shown} {verb} not occur in column '{split.column}'"
        octal = {
            f"0{value:o}": value for value in absent if isinstance(value, int) and value > 0 and f"0{value:o}" in seen
        }
        if octal:
            (text, value) = next(iter(octal.items()))
            problem = f"{message}; {text} without quotes is octal in YAML and means {value}: write '{text}'"
            raise RecipeError(problem, ("data", "split", part))
        near = [n for value in absent for n in near_names(value, seen, cutoff=0)]
        yield f"{message}; nearest: {', '.join(dict.fromkeys(near)) or 'none'}"
