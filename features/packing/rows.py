"""Packs raw values into rows: fixed-width records of 64-bit keys and 32-bit floats.

A row is little-endian: its int64 keys, for a behaviour its int64 time in milliseconds, its float32 numerics, zero bytes
up to a multiple of eight. Concatenated rows are one numpy array, so a batch of them becomes the graph's inputs without
a loop.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from struct import Struct

import numpy as np

from features.errors import FeatureError
from features.keys import MISSING_KEY, key_of, keys_of_column
from features.nearest import nearest
from features.packing.numbers import number_of, numbers_of_column, vector_of, vectors_of_column
from features.schemas.schema import Feature, MultiCategorical, Numeric, Vector

_KEY = Struct("<q")
_NUMERIC = Struct("<f")
_KEY_TYPE = np.dtype("<i8")
_NUMERIC_TYPE = np.dtype("<f4")


class RowLayout:
    """The layout of one entity's features in a packed row.

    `dtype` has the fields `keys` int64 `[key_width]` and `numerics` float32 `[numeric_width]`, in the schema's order;
    a multi-valued feature takes `max_values` key columns, padded with MISSING_KEY on the right; a vector takes `width`
    columns of `numerics`, which are all NaN if it is missing.
    """

    def __init__(self, features: Sequence[Feature], times: bool = False) -> None:
        self.features = tuple(features)
        self.key_columns: dict[str, slice] = {}
        self.numeric_columns: dict[str, int] = {}
        self.vector_columns: dict[str, slice] = {}
        key_width = 0
        numeric_width = 0
        for feature in self.features:
            if isinstance(feature, Numeric):
                self.numeric_columns[feature.name] = numeric_width
                numeric_width += 1
                continue
            if isinstance(feature, Vector):
                self.vector_columns[feature.name] = slice(numeric_width, numeric_width + feature.width)
                numeric_width += feature.width
                continue
            width = feature.max_values if isinstance(feature, MultiCategorical) else 1
            self.key_columns[feature.name] = slice(key_width, key_width + width)
            key_width += width
        self.key_width = key_width
        self.numeric_width = numeric_width
        fields: list[tuple[str, str, tuple[int, ...]]] = [("keys", "<i8", (key_width,))]
        if times:
            fields.append(("time", "<i8", ()))
        fields.append(("numerics", "<f4", (self.numeric_width,)))
        used = np.dtype(fields).itemsize
        if used % 8:
            fields.append(("padding", "V4", ()))
        self.dtype = np.dtype(fields)
        self._numerics_at = _offset(self.dtype, "numerics")
        self._by_name = {f.name: f for f in self.features}

    def number_columns(self, names: Iterable[str]) -> np.ndarray:
        """The columns of `numerics` that these features have, in their order, int64; none for a categorical one."""
        columns: list[int] = []
        for name in names:
            if name in self.numeric_columns:
                columns.append(self.numeric_columns[name])
            elif name in self.vector_columns:
                columns += range(self.vector_columns[name].start, self.vector_columns[name].stop)
        return np.array(columns, dtype=np.int64)

    @cached_property
    def number_names(self) -> tuple[str, ...]:
        """A name for each column of `numerics`; those of a vector are `name[0]`, `name[1]`, ..."""
        names: list[str] = []
        for feature in self.features:
            if isinstance(feature, Numeric):
                names.append(feature.name)
            elif isinstance(feature, Vector):
                names += [f"{feature.name}[{place}]" for place in range(feature.width)]
        return tuple(names)

    @cached_property
    def default_row(self) -> bytes:
        """The row of an entity of which nothing is known."""
        return self.empty(1).tobytes()

    def empty(self, n: int) -> np.ndarray:
        """Return `n` rows in which everything is missing."""
        rows = np.zeros(n, dtype=self.dtype)
        rows["numerics"] = np.nan
        return rows

    def pack(self, values: Mapping[str, object], *, nan_is_missing: bool = False, onto: bytes | None = None) -> bytes:
        """Pack one row of raw values; a feature that is not in `values` is missing, or stays as in the packed row
        `onto`.

        Raises FeatureError for an unknown feature or a value of the wrong type.
        """
        row = bytearray(self.default_row if onto is None else onto)
        if len(row) != self.dtype.itemsize:
            raise ValueError(f"a packed row has {self.dtype.itemsize} bytes, this one {len(row)}")
        for name, value in values.items():
            self._set(row, self.feature(name), value, nan_is_missing)
        return bytes(row)

    def __contains__(self, name: object) -> bool:
        """Whether the layout has a feature of that name."""
        return name in self._by_name

    def feature(self, name: str) -> Feature:
        """The feature of that name. Raises FeatureError with the known names."""
        feature = self._by_name.get(name)
        if feature is None:
            raise FeatureError(name, f"unknown feature{nearest(name, self._by_name)}")
        return feature

    def _set(self, row: bytearray, feature: Feature, value: object, nan_is_missing: bool) -> None:
        name = feature.name
        if isinstance(feature, Numeric):
            _NUMERIC.pack_into(
                row,
                self._numerics_at + _NUMERIC.size * self.numeric_columns[name],
                number_of(value, name, nan_is_missing),
            )
            return
        if isinstance(feature, Vector):
            vector = vector_of(feature, value).astype(_NUMERIC_TYPE).tobytes()
            start = self._numerics_at + _NUMERIC.size * self.vector_columns[name].start
            row[start : start + len(vector)] = vector
            return
        start = self.key_columns[name].start
        keys = (
            multi_keys(feature, value)
            if isinstance(feature, MultiCategorical)
            else (key_of(feature.vocabulary_name, value, name, feature.part_of),)
        )
        for place, key in enumerate(keys, start):
            _KEY.pack_into(row, _KEY.size * place, key)

    def measured(self, feature: Feature, numerics: np.ndarray) -> np.ndarray:
        """A numeric feature's number, or the Euclidean norm of a vector, in each row `[n]`; NaN where it is missing."""
        if isinstance(feature, Vector):
            return np.asarray(np.linalg.norm(numerics[:, self.vector_columns[feature.name]].astype(np.float64), axis=1))
        return np.asarray(numerics[:, self.numeric_columns[feature.name]])

    def columns_of(self, packed: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Keys int64 `[1, key_width]` and numerics float32 `[1, numeric_width]` of one packed row, without a copy."""
        keys = np.ndarray((1, self.key_width), _KEY_TYPE, packed)
        return keys, np.ndarray((1, self.numeric_width), _NUMERIC_TYPE, packed, self._numerics_at)

    def pack_columns(self, columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
        """Pack `n` rows of raw columns, each `[n]`, a vector's also `[n, width]`.

        A column that is not given, and NaN in a column, is missing.

        The result equals that of `pack` row by row, bit for bit.
        """
        rows = self.empty(n)
        for feature in self.features:
            if feature.name not in columns:
                continue
            column = columns[feature.name]
            if isinstance(feature, Numeric):
                rows["numerics"][:, self.numeric_columns[feature.name]] = numbers_of_column(column, feature.name)
            elif isinstance(feature, Vector):
                rows["numerics"][:, self.vector_columns[feature.name]] = vectors_of_column(feature, column)
            elif isinstance(feature, MultiCategorical):
                rows["keys"][:, self.key_columns[feature.name]] = multi_keys_of_column(feature, column)
            else:
                rows["keys"][:, self.key_columns[feature.name].start] = keys_of_column(
                    feature.vocabulary_name, column, feature.name, feature.part_of
                )
        return rows

    def rows(self, packed: bytes) -> np.ndarray:
        """Return concatenated packed rows as a structured array, without a copy. Raises ValueError on a wrong
        length.
        """
        return np.frombuffer(packed, dtype=self.dtype)


def _offset(dtype: np.dtype, field: str) -> int:
    assert dtype.fields is not None
    return int(dtype.fields[field][1])


def _values_of(value: object, field: str) -> list[object]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    if isinstance(value, list | tuple):
        return list(value)
    raise FeatureError(field, f"a multi-valued feature is a list of strings or integers, not {type(value).__name__}")


def multi_keys(feature: MultiCategorical, value: object) -> list[int]:
    """Return the keys of one multi-valued value, cut and padded to `max_values`, without the missing elements of the
    list.
    """
    keys: list[int] = []
    for entry in _values_of(value, feature.name):
        key = key_of(feature.vocabulary_name, entry, feature.name)
        if key != MISSING_KEY:
            keys.append(key)
            # Values that would be cut are not hashed, so a long list costs no more than a full one.
            if len(keys) == feature.max_values:
                break
    return keys + [MISSING_KEY] * (feature.max_values - len(keys))


def _first_present(values: list[object], n: int) -> list[object]:
    """Return the first `n` values that are not missing; later values are cut without being checked."""
    return [value for value in values if not _is_missing(value)][:n]


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def multi_keys_of_column(feature: MultiCategorical, column: np.ndarray) -> np.ndarray:
    """`multi_keys` for a column of lists, int64 `[n, max_values]`."""
    lists = [_first_present(_values_of(v, feature.name), feature.max_values) for v in column.tolist()]
    flat: list[object] = [v for values in lists for v in values]
    keys = keys_of_column(feature.vocabulary_name, flat, feature.name)
    owner = np.repeat(np.arange(len(lists)), [len(v) for v in lists])
    present = keys != MISSING_KEY
    keys = keys[present]
    owner = owner[present]
    starts = np.searchsorted(owner, np.arange(len(lists)))
    place = np.arange(len(keys)) - starts[owner]
    fits = place < feature.max_values
    out = np.full((len(lists), feature.max_values), MISSING_KEY, dtype=np.int64)
    out[owner[fits], place[fits]] = keys[fits]
    return out
