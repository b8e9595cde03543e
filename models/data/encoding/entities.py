"""Packed rows of users or items on disk, and the row index of each raw id."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features import RowLayout
from features.keys import MISSING_KEY, id_keys_of_column, sorted_distinct
from models.data.arrays import ArrayFile, read_array
from models.data.encoding.known_keys import KnownKeys
from models.data.stored.memory import refuse_beyond
from models.data.stored.partition import EncodedFile, Ids
from tables import Batch, Table, packed_rows
from tables.packing import feature_columns, list_columns

ROWS_AT_ONCE = 1 << 16
MOST_LATE = 1 << 16
_ID_BYTES = 48  # in memory, while ids are sorted


class Entities:
    """Appends rows to a file; an id without a row in the table gets the default row with its own id, as online.

    In memory: 16 bytes per entity, and as much again twice while ids are sorted.
    """

    def __init__(self, path: Path, layout: RowLayout, id_feature: str | None, memory_bytes: int | None = None) -> None:
        """`memory_bytes`: the limit for the ids; without it there is none."""
        self._memory_bytes = memory_bytes
        self.layout = layout
        self.id_feature = id_feature
        self.repeated = 0
        self.without_row = 0
        self._file = ArrayFile(path, layout.dtype)
        self._path = path
        self._table = _Places()
        self._late = _Places()  # ids without a row, which are moved to the others as soon as they are many
        self._n = 0

    def read(self, table: Table, id_column: str, *, served: bool = False) -> None:
        """Pack every row of the table, which holds what was served or what is stored. If an id has several rows, the
        last one is used, as in the store. Raises TableError.
        """
        key = f"data.{table.role.removesuffix('s')}_id"
        names = feature_columns(self.layout, self.id_feature)
        table.require({id_column: key}, f"; {key} names the column in all tables")
        table.require(dict.fromkeys(names, f"features.{table.role.removesuffix('s')}"))
        keys = []
        for batch in table.batches([id_column, *names], list_columns(self.layout)):
            self._write(packed_rows(self.layout, batch, self.id_feature, id_column, served=served))
            keys.append(id_keys(batch, id_column))
        self._index(keys)

    def read_partitions(self, partitions: Sequence[EncodedFile]) -> None:
        """Take the rows of encoded files, as `read` does those of a table. Raises RecipeError beyond the limit."""
        self._refuse_beyond(sum(partition.rows for partition in partitions))
        for partition in partitions:
            rows = partition.array("rows", self.layout.dtype)
            for begin in range(0, len(rows), ROWS_AT_ONCE):
                self._write(rows[begin : begin + ROWS_AT_ONCE])
        self._index([partition.array("keys", np.int64) for partition in partitions])

    def _index(self, keys: Sequence[np.ndarray]) -> None:
        every = np.concatenate([np.zeros(0, dtype=np.int64), *keys])
        distinct, first = np.unique(every[::-1], return_index=True)
        self.repeated = len(every) - len(distinct)
        self._table = _Places(distinct, len(every) - 1 - first)

    def index_of(self, keys: np.ndarray, ids: Ids) -> np.ndarray:
        """Row index of each id, int64 `[n]`; unknown ones are given rows, for which `ids` has their features."""
        places = self.known_places(keys)
        unknown = places < 0
        if not unknown.any():
            return places
        new = sorted_distinct(keys[unknown])
        rows = self.layout.pack_columns({}, len(new))
        if self.id_feature is not None:
            rows["keys"][:, self.layout.key_columns[self.id_feature].start] = ids.features[
                np.searchsorted(ids.keys, new)
            ]
        first = self._n
        self._write(rows)
        self.without_row += len(new)
        self._refuse_beyond(self._n)
        self._late = self._late.joined(new, first + np.arange(len(new)))
        if len(self._late.keys) > max(MOST_LATE, len(self._table.keys) // 8):
            self._table = self._table.joined(self._late.keys, self._late.places)
            self._late = _Places()
        places[unknown] = first + np.searchsorted(new, keys[unknown])
        return places

    def known_places(self, keys: np.ndarray) -> np.ndarray:
        """Return what `index_of` returns, but -1 for an unknown id."""
        # Sorted, the keys are looked up from one end to the other, which a processor's cache likes.
        distinct, inverse = np.unique(keys, return_inverse=True)
        return np.maximum(self._table.of(distinct), self._late.of(distinct))[inverse]

    def known_index_of(self, batch: Batch, id_column: str) -> np.ndarray:
        """Row index of each id of a column, -1 for an unknown one, int64 `[n]`. Raises TableError."""
        return self.known_places(id_keys(batch, id_column))

    def packed(self) -> np.ndarray:
        """Return the rows that were added so far, as a memory map."""
        self._file.flush()
        if self.layout.dtype.itemsize == 0:
            return np.zeros(self._n, dtype=self.layout.dtype)
        return read_array(self._path, self.layout.dtype)

    def finished(self) -> np.ndarray:
        """Return all packed rows as a memory map; no row can be added afterwards."""
        self.close()
        if self.layout.dtype.itemsize == 0:
            return np.zeros(self._n, dtype=self.layout.dtype)
        return read_array(self._path, self.layout.dtype)

    def close(self) -> None:
        """Close the file; it may be called twice."""
        self._file.close()

    def __len__(self) -> int:
        return self._n

    def _refuse_beyond(self, ids: int) -> None:
        if self._memory_bytes is not None:
            refuse_beyond(self._memory_bytes, ids * _ID_BYTES, f"the index of {ids:,} ids ({self._path.stem})")

    def _write(self, rows: np.ndarray) -> None:
        if self.layout.dtype.itemsize:
            self._file.append(rows)
        self._n += len(rows)


class _Places:
    """The places of ids: keys int64 `[n]`, ascending, and places int64 `[n]`."""

    def __init__(self, keys: np.ndarray | None = None, places: np.ndarray | None = None) -> None:
        self.keys = np.zeros(0, dtype=np.int64) if keys is None else keys
        self.places = np.zeros(0, dtype=np.int64) if places is None else places

    def of(self, keys: np.ndarray) -> np.ndarray:
        """The place of each key, -1 for an unknown one."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.places[at], -1)

    def joined(self, keys: np.ndarray, places: np.ndarray) -> "_Places":
        """These places and others, of keys that are not among them."""
        every = np.concatenate([self.keys, keys])
        order = np.argsort(every, kind="stable")
        return _Places(every[order], np.concatenate([self.places, places])[order])


def id_keys(batch: Batch, column: str, known: KnownKeys | None = None) -> np.ndarray:
    """Return the ids' 64-bit keys; `39` and `"39"` are one id. Raises TableError for a missing or malformed id.

    `known`: the keys of ids of earlier batches.
    """

    def hashed(values: np.ndarray) -> np.ndarray:
        return id_keys_of_column(values, column)

    keys = batch.keys(column, hashed if known is None else lambda values: known.of(values, hashed))
    missing = np.flatnonzero(keys == MISSING_KEY)
    if len(missing):
        raise batch.error(column, f"column '{column}' has a missing id", int(missing[0]))
    return keys
