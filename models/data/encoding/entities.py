"""Packed rows of users or items on disk, and the row index of each raw id."""

from pathlib import Path

import numpy as np

from features import RowLayout
from features.keys import MISSING_KEY, id_keys_of_column
from models.data.arrays import ArrayFile, read_array
from tables import Batch, Table, packed_rows
from tables.packing import feature_columns, list_columns


class Entities:
    """Appends rows to a file; an id without a row in the table gets the default row with its own id, as online.

    In memory: 16 bytes per entity.
    """

    def __init__(self, path: Path, layout: RowLayout, id_feature: str | None) -> None:
        self.layout = layout
        self.id_feature = id_feature
        self.repeated = 0
        self.without_row = 0
        self._file = ArrayFile(path, layout.dtype)
        self._path = path
        self._keys = np.zeros(0, dtype=np.int64)  # ascending
        self._places = np.zeros(0, dtype=np.int64)
        self._n = 0

    def read(self, table: Table, id_column: str, *, served: bool = False) -> None:
        """Pack every row of the table, which holds what was served or what is stored. If an id has several rows, the
        last one is used, as in the store. Raises TableError.
        """
        key = f"data.{table.role.removesuffix('s')}_id"
        names = feature_columns(self.layout, self.id_feature)
        table.require({id_column: key}, f"; {key} names the column in all tables")
        table.require(dict.fromkeys(names, f"features.{table.role.removesuffix('s')}"))
        for batch in table.batches([id_column, *names], list_columns(self.layout)):
            rows = packed_rows(self.layout, batch, self.id_feature, id_column, served=served)
            self._append(rows, id_keys(batch, id_column))
        distinct = np.unique(self._keys[::-1], return_index=True)
        last = len(self._keys) - 1 - distinct[1]
        self.repeated = len(self._keys) - len(last)
        self._keys = distinct[0]
        self._places = self._places[last]

    def index_of(self, batch: Batch, id_column: str) -> np.ndarray:
        """Row index of each raw id, int64 `[n]`; unknown ids are given rows. Raises TableError."""
        keys = id_keys(batch, id_column)
        unknown = np.flatnonzero(~self._known(keys))
        new, first = np.unique(keys[unknown], return_index=True)
        if len(new):
            raw = batch.categories(id_column)[unknown[first]]
            features = {} if self.id_feature is None else {self.id_feature: raw}
            self._append(self.layout.pack_columns(features, len(new)), new)
            order = np.argsort(self._keys, kind="stable")
            self._keys = self._keys[order]
            self._places = self._places[order]
            self.without_row += len(new)
        return self._places[np.searchsorted(self._keys, keys)]

    def known_index_of(self, batch: Batch, id_column: str) -> np.ndarray:
        """Return what `index_of` returns, but -1 for an unknown id."""
        keys = id_keys(batch, id_column)
        known = self._known(keys)
        out = np.full(len(keys), -1, dtype=np.int64)
        out[known] = self._places[np.searchsorted(self._keys, keys[known])]
        return out

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

    def _known(self, keys: np.ndarray) -> np.ndarray:
        if not len(self._keys):
            return np.zeros(len(keys), dtype=bool)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(self._keys[place] == keys)

    def _append(self, rows: np.ndarray, keys: np.ndarray) -> None:
        if self.layout.dtype.itemsize:
            self._file.append(rows)
        self._keys = np.concatenate([self._keys, keys])
        self._places = np.concatenate([self._places, self._n + np.arange(len(keys))])
        self._n += len(keys)


def id_keys(batch: Batch, column: str) -> np.ndarray:
    """Return the ids' 64-bit keys; `39` and `"39"` are one id. Raises TableError for a missing or malformed id."""
    keys = batch.keys(column, lambda values: id_keys_of_column(values, column))
    missing = np.flatnonzero(keys == MISSING_KEY)
    if len(missing):
        raise batch.error(column, f"column '{column}' has a missing id", int(missing[0]))
    return keys
