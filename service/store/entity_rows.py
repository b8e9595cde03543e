"""Holds what a store has for one user or item, as it is packed, and finds the texts of hashed values."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.keys import MISSING_KEY, keys_of_column
from features.layouts import Layouts
from features.packing.rows import RowLayout
from features.times import LATEST_MS

_INTEGERS = 10_000
_BLOCK = 1000


@dataclass(frozen=True, eq=False)
class PackedEntity:
    """What a store has for one user or item under one schema.

    `row` is None if there is none, and empty where the store has a value of another type. `behaviours` are `(time in
    ms, 8-byte event key + packed row)`, newest first, empty for items; a time is None if the stored one is no date.
    `cells` are the cells of the counters by name; the one of an item has the name ``. The milliseconds until the row or
    the sequence expire are None if it never does. `loaded_at` is None until the first load of the schema is complete.
    """

    layouts: Layouts
    loaded_at: str | None
    row: bytes | None
    row_expires_ms: int | None = None
    behaviours: Sequence[tuple[int | None, bytes]] = ()
    behaviours_expire_ms: int | None = None
    cells: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        return self.row is not None or bool(self.behaviours)


@dataclass(frozen=True, slots=True)
class DecodedValue:
    """One feature of a row: its keys without the missing ones, its number, or its vector; none if it is missing."""

    keys: tuple[int, ...] = ()
    number: float | None = None
    vector: tuple[float, ...] | None = None


def time_of(score: float) -> int | None:
    """The milliseconds since 1970 of a stored time; None if it is no date, as another program may have written."""
    return int(score) if 0 <= score <= LATEST_MS else None


def decoded_values(layout: RowLayout, row: np.void) -> dict[str, DecodedValue]:
    """Map each feature of a packed row to its value, in the order of the columns."""
    values = {}
    for name, columns in layout.key_columns.items():
        values[name] = DecodedValue(keys=tuple(int(key) for key in row["keys"][columns] if key != MISSING_KEY))
    for name, column in layout.numeric_columns.items():
        number = float(row["numerics"][column])
        values[name] = DecodedValue(number=None if np.isnan(number) else number)
    for name, run in layout.vector_columns.items():
        numbers = tuple(row["numerics"][run].tolist())
        values[name] = DecodedValue(vector=None if np.isnan(numbers[0]) else numbers)
    return values


def texts_of(vocabulary: str, keys: Collection[int], known: Iterable[str]) -> dict[int, str]:
    """Return the texts of those keys of a vocabulary that are a `known` text or an integer from 0 to 9999.

    A row holds hashes, which cannot be inverted, so texts are hashed until every key has its text.
    """
    missing = set(keys)
    texts: dict[int, str] = {}
    for block in _blocks(known):
        if not missing:
            break
        for key, text in zip(keys_of_column(vocabulary, block).tolist(), block, strict=True):
            if key in missing:
                missing.discard(key)
                texts[key] = text
    return texts


def _blocks(known: Iterable[str]) -> Iterator[list[str]]:
    yield [*dict.fromkeys(known)]
    for start in range(0, _INTEGERS, _BLOCK):
        yield [str(number) for number in range(start, start + _BLOCK)]
