"""Canonical Arrow types: the few types that every column of a Parquet file is read as.

    text            string             string, large_string, string_view, binary that is UTF-8
    integers        int64, uint64      any integer, decimals of scale 0; uint64 only where a value needs it
    numbers         float32, float64   float16 becomes float32; decimals with digits after the point become float64
    truth           bool
    times           int64              timestamps of any unit and zone and dates, as milliseconds since 1970 (UTC)
    lists           list<one of them>  list, large_list, fixed_size_list, list_view

Dictionaries and run-end encoded columns are decoded. Anything else is refused by name.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MS_PER_DAY = 86_400_000
_PER_MS = {"us": 1_000, "ns": 1_000_000}


class TypeRefusedError(ValueError):
    """A column type that is not allowed for features, ids, times and labels."""


def is_time(kind: pa.DataType) -> bool:
    """Return whether a type is a timestamp or a date."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list of any layout."""
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(views or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def element_type(kind: pa.DataType) -> pa.DataType:
    """The type of a list's elements; another type as it is. Of a dictionary that of its values."""
    if pa.types.is_dictionary(kind):
        return element_type(kind.value_type)
    return element_type(kind.value_type) if is_list(kind) else kind


def family(kind: pa.DataType) -> str | None:
    """What a column of a type means: files of one table agree on it. None for a column without values.

    Integers and floats are one family, since writers make floats of integers with gaps.
    """
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return family(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return family(kind.storage_type)
    if pa.types.is_null(kind):
        return None
    if is_list(kind):
        return f"list of {family(kind.value_type)}"
    if is_text(kind):
        return "text"
    if is_time(kind):
        return "time"
    if pa.types.is_boolean(kind):
        return "truth"
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return "number" if numbers else str(kind)


def exact_below(kind: pa.DataType) -> float:
    """The number from which on a type no longer holds every integer; infinite if it always does."""
    if pa.types.is_float16(kind):
        return 2.0**11
    return 2.0**24 if pa.types.is_float32(kind) else np.inf


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text of any layout, or bytes that may be text."""
    strings = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(strings or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def decoded(column: pa.Array) -> pa.Array:
    """Return the column without dictionary, run-end encoding or extension type."""
    while True:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        else:
            return column


def canonical(column: pa.Array) -> pa.Array:
    """Convert a column to its canonical type.

    Raises TypeRefusedError for a type without one, and pyarrow's ArrowInvalid for a value that the type does not hold.
    """
    column = decoded(column)
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    if is_text(kind):
        # A view is cast to its own large type first, which pyarrow can check for UTF-8.
        large = column.cast(pa.large_binary()) if pa.types.is_binary_view(kind) else column
        return large.cast(pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return column
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_uint64(kind):
        return _signed(column)
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if is_time(kind):
        return _milliseconds(column)
    if pa.types.is_decimal(kind):
        return _decimals(column)
    if is_list(kind):
        return _lists(column)
    raise TypeRefusedError(f"has the type {kind}, but must be text, integer, number, boolean, time or a list of these")


def _signed(column: pa.Array) -> pa.Array:
    """Convert to int64 if every value fits."""
    largest = pc.max(column).as_py()
    return column.cast(pa.int64()) if largest is None or largest < 2**63 else column


def _milliseconds(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_date32(kind):
        return pc.multiply_checked(column.cast(pa.int32()).cast(pa.int64()), _MS_PER_DAY)
    values = column.cast(pa.int64())
    if pa.types.is_date64(kind) or kind.unit == "ms":
        return values
    if kind.unit == "s":
        return pc.multiply_checked(values, 1_000)
    factor = _PER_MS[kind.unit]
    whole = pc.divide(values, factor)  # towards zero, so that a time before 1970 may have to go one further
    return pc.subtract(whole, pc.greater(pc.multiply(whole, factor), values).cast(pa.int64()))


def _decimals(column: pa.Array) -> pa.Array:
    """Convert decimals: whole ones to int64 (beyond int64 to text with the same key), others to float64."""
    text = column.cast(pa.string())
    if column.type.scale > 0:
        return text.cast(pa.float64())  # by way of text, which is rounded once
    if column.type.scale < 0:
        text = pa.array([None if v is None else str(int(v)) for v in column.to_pylist()], pa.string())
    try:
        return text.cast(pa.int64())
    except pa.ArrowInvalid:
        return text


def _lists(column: pa.Array) -> pa.Array:
    missing = column.is_null()
    lengths = pc.if_else(missing, 0, pc.list_value_length(column).cast(pa.int64()))
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int32)
    values = canonical(column.flatten())
    if is_list(values.type):
        raise TypeRefusedError(f"has the type {column.type}, a list of lists")
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=missing)


def objects(values: list[object]) -> np.ndarray:
    """An object array `[n]`, also where the entries are lists of equal length."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
