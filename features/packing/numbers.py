"""Checks raw numbers and vectors, and turns them into float32 values."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from features.errors import FeatureError

if TYPE_CHECKING:
    from features.schemas.schema import Vector

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_PLAIN = frozenset({int, float})


def number_of(value: object, field: str, nan_is_missing: bool) -> float:
    """Return a numeric value as float; NaN if it is missing. Raises FeatureError for anything but a finite number."""
    if value is None:
        return math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise FeatureError(field, f"a numeric value is a number or null, not {type(value).__name__}")
    if isinstance(value, float | np.floating) and math.isnan(value):
        if nan_is_missing:
            return math.nan
        raise FeatureError(field, "NaN is not a number; send null for a missing value")
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise FeatureError(field, f"a numeric value lies within +-{_FLOAT32_MAX:.3g} (float32)")
    return float(value)


def numbers_of_column(column: np.ndarray, field: str) -> np.ndarray:
    """`number_of` for a column, float32 `[n]`, NaN where missing."""
    if column.dtype.kind in "iuf":
        numbers = column.astype(np.float64)
        out_of_range = ~np.isnan(numbers) & ~(np.abs(numbers) <= _FLOAT32_MAX)
        if out_of_range.any():
            number_of(float(numbers[out_of_range][0]), field, nan_is_missing=True)
        packed = numbers.astype(np.float32)
        packed[np.isnan(packed)] = np.nan  # one bit pattern: a column may hold NaNs of any sign and payload
        return packed
    return np.array([number_of(v, field, nan_is_missing=True) for v in column.tolist()], dtype=np.float32)


def vector_of(feature: "Vector", value: object) -> np.ndarray:
    """One vector float32 `[width]`, NaN everywhere if it is missing (None, or the NaN of a column of objects).

    Raises FeatureError for another width, and for an element that is no finite number of float32.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return np.full(feature.width, np.nan, dtype=np.float32)
    if not isinstance(value, list | tuple | np.ndarray):
        problem = f"a vector is a list of {feature.width} numbers or null, not {type(value).__name__}"
        raise FeatureError(feature.name, problem)
    if len(value) != feature.width:
        raise FeatureError(feature.name, f"a vector has {feature.width} numbers, this one {len(value)}")
    numbers = _finite(value)
    if numbers is None:
        numbers = np.array([_element(feature.name, i, entry) for i, entry in enumerate(value)], dtype=np.float64)
    return numbers.astype(np.float32)


def vectors_of_column(feature: "Vector", column: np.ndarray) -> np.ndarray:
    """`vector_of` for a column, float32 `[n, width]`. The column is `[n]` lists, or numbers `[n, width]` in which a
    missing vector is NaN everywhere.
    """
    if column.ndim == 1:
        vectors = [vector_of(feature, value) for value in column.tolist()]
        return np.stack(vectors) if vectors else np.zeros((0, feature.width), dtype=np.float32)
    if not len(column):
        return np.zeros((0, feature.width), dtype=np.float32)
    missing = np.isnan(column).all(axis=1)
    bad = ~missing & ~(np.abs(column) <= _FLOAT32_MAX).all(axis=1)
    if column.shape[1] != feature.width or bad.any():
        vector_of(feature, column[int(bad.argmax())].tolist())
    packed = column.astype(np.float32)
    packed[missing] = np.nan
    return packed


def _finite(value: Sequence[object] | np.ndarray) -> np.ndarray | None:
    """Plain finite numbers as float64; None for anything else, which is then looked at one by one."""
    plain = value.dtype.kind in "iuf" if isinstance(value, np.ndarray) else _PLAIN.issuperset(map(type, value))
    if not plain:
        return None
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except OverflowError:
        return None
    return numbers if (np.abs(numbers) <= _FLOAT32_MAX).all() else None


def _element(name: str, place: int, value: object) -> float:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        missing = "null" if value is None else "NaN"
        raise FeatureError(name, f"element {place + 1} is {missing}; a vector is whole, or null as a whole")
    try:
        return number_of(value, name, nan_is_missing=False)
    except FeatureError as error:
        raise FeatureError(name, f"element {place + 1}: {error.message}") from None
