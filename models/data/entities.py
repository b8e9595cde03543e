"""Owns the packed rows of users or items on disk, and the way from a raw id to its row's index."""

from pathlib import Path

import numpy as np

from features import FeatureError, MultiCategorical, RowLayout, keys_of_column
from features.keys import MISSING_KEY
from models.data.arrays import ArrayFile, read_array
from models.data.tables import Table, numbers
from models.recipe.recipe import RecipeError


class Entities:
    """Rows are appended to a file; an id without a row in the table gets the default row with its own id, as online.

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

    def read(self, table: Table, id_column: str) -> None:
        """Pack every row of the table; of rows with the same id the last one counts, as in the store."""
        wanted = {id_column: f"data.{id_column if id_column in ('user_id', 'item_id') else 'id'}"}
        names = [f.name for f in self.layout.features if f.name != self.id_feature]
        table.require(wanted | {name: f"features.{table.role.removesuffix('s')}" for name in names})
        lists = frozenset(f.name for f in self.layout.features if isinstance(f, MultiCategorical))
        for columns, n in table.batches([id_column, *names], lists):
            ids = columns[id_column]
            features = {name: columns[name] for name in names}
            if self.id_feature is not None:
                features[self.id_feature] = ids
            self._append(pack(self.layout, features, n, table), id_keys(ids, table, id_column))
        distinct = np.unique(self._keys[::-1], return_index=True)
        kept = len(self._keys) - 1 - distinct[1]
        self.repeated = len(self._keys) - len(kept)
        self._keys = distinct[0]
        self._places = self._places[kept]

    def index_of(self, ids: np.ndarray, table: Table, id_column: str) -> np.ndarray:
        """Row index of each raw id, int64 `[n]`; unknown ids are given rows."""
        keys = id_keys(ids, table, id_column)
        new, first = np.unique(keys[~self._known(keys)], return_index=True)
        if len(new):
            raw = ids[~self._known(keys)][first]
            features = {} if self.id_feature is None else {self.id_feature: raw}
            self._append(pack(self.layout, features, len(new), table), new)
            order = np.argsort(self._keys, kind="stable")
            self._keys = self._keys[order]
            self._places = self._places[order]
            self.without_row += len(new)
        return self._places[np.searchsorted(self._keys, keys)]

    def known_index_of(self, ids: np.ndarray, table: Table, id_column: str) -> np.ndarray:
        """As `index_of`, but -1 for an unknown id."""
        keys = id_keys(ids, table, id_column)
        known = self._known(keys)
        out = np.full(len(keys), -1, dtype=np.int64)
        out[known] = self._places[np.searchsorted(self._keys, keys[known])]
        return out

    def finished(self) -> np.ndarray:
        """All packed rows, a memory map; nothing can be added after."""
        self.close()
        if self.layout.dtype.itemsize == 0:
            return np.zeros(self._n, dtype=self.layout.dtype)
        return read_array(self._path, self.layout.dtype)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
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


def id_keys(ids: np.ndarray, table: Table, column: str) -> np.ndarray:
    """The ids' 64-bit keys, so that `39` and `"39"` are one id. Raises RecipeError for a missing or malformed id."""
    try:
        keys = keys_of_column("id", ids, column)
    except FeatureError as error:
        raise RecipeError(f"{table.path.name} ({table.role}): {error}") from None
    if (keys == MISSING_KEY).any():
        raise RecipeError(f"{table.path.name} ({table.role}): column '{column}' has a missing id")
    return keys


def pack(layout: RowLayout, columns: dict[str, np.ndarray], n: int, table: Table) -> np.ndarray:
    """Packed rows `[n]`; text that a CSV holds in a numeric column is read as numbers. Raises RecipeError that names table and column."""
    for name in layout.numeric_columns:
        if table.path.suffix == ".csv" and name in columns:
            columns[name] = numbers(columns[name], table, name)
    try:
        return layout.pack_columns(columns, n)
    except FeatureError as error:
        raise RecipeError(f"{table.path.name} ({table.role}): column {error}") from None
