"""Reads a column of vectors: lists of numbers of one width."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import FeatureError, Vector
from features.packing.numbers import vector_of
from tables.batch import Batch
from tables.text_numbers import NoNumberError, numbers_of_text
from tables.types import is_list


def vectors_of(batch: Batch, feature: Vector, column: str) -> np.ndarray:
    """Return the vectors of a column, float32 `[n, width]`; NaN everywhere in a row without one.

    Raises TableError with column and row for another width, and for an element that is no finite number of float32.
    """
    values = batch.rows.column(column)
    out = np.full((len(batch), feature.width), np.nan, dtype=np.float32)
    present = np.flatnonzero(values.is_valid())
    if not len(present):
        return out
    if not is_list(values.type):
        problem = f"a vector is a list of {feature.width} numbers or null, not {values.type}"
        raise batch.error(column, f"column {column}: {problem}", int(present[0]))

    def refuse(bad: Any, vector: Callable[[int], object]) -> None:
        """Raise the error of the first present row that is bad; `vector` gives its value."""
        if not bad.any():
            return
        place = int(present[int(bad.argmax())])
        try:
            vector_of(feature, vector(place))
        except FeatureError as error:
            raise batch.error(column, f"column {column}: {error.message}", place) from None

    # Widths first, so that the elements form a matrix.
    lengths = np.asarray(pc.list_value_length(values).drop_null())
    refuse(lengths != feature.width, lambda place: values[place].as_py())
    elements = values.flatten()
    nulls = np.asarray(elements.is_null()).reshape(-1, feature.width)
    refuse(nulls.any(axis=1), lambda place: values[place].as_py())
    numbers = _numbers(batch, feature, column, elements, present).reshape(-1, feature.width)
    finite = (np.abs(numbers) <= np.finfo(np.float32).max).all(axis=1)
    refuse(~finite, lambda place: numbers[int(np.searchsorted(present, place))].tolist())
    out[present] = numbers
    return out


def _numbers(batch: Batch, feature: Vector, column: str, elements: pa.Array, present: np.ndarray) -> np.ndarray:
    """The elements as floats `[m]`; text of a CSV is parsed."""
    kind = elements.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return np.asarray(elements.to_numpy(zero_copy_only=False))
    if pa.types.is_string(kind) and batch.is_untyped(column):
        try:
            return numbers_of_text(elements)
        except NoNumberError as error:
            row, element = divmod(error.place, feature.width)
            problem = f"element {element + 1} is {error.text!r}, which is no number{error.advice}"
            raise batch.error(column, f"column {column}: {problem}", int(present[row])) from None
    problem = f"a vector is a list of {feature.width} numbers or null, not a list of {kind}"
    raise batch.error(column, f"column {column}: {problem}", int(present[0]))
