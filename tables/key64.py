"""Columns of keys: features as the service served them, hashed already, which a reader passes through.

A Parquet column declares it by `funnelrank.type = key64` in its field's metadata: int64, or a list of int64 for a
feature of several values. A key of 0 stands for a missing value.
"""

from typing import Final

import numpy as np
import pyarrow as pa

from features.keys import MISSING_KEY

_TYPE: Final = b"funnelrank.type"
_KEY64: Final = b"key64"


def key64_field(name: str, many: bool = False) -> pa.Field:
    """The field of a column of keys."""
    return pa.field(name, pa.list_(pa.int64()) if many else pa.int64(), metadata={_TYPE: _KEY64})


def is_key64(rows: pa.RecordBatch, column: str) -> bool:
    """Return whether a column declares that it has keys."""
    return (rows.schema.field(column).metadata or {}).get(_TYPE) == _KEY64


def keys_of(rows: pa.RecordBatch, column: str) -> np.ndarray:
    """Return the keys int64 `[n]` of a column of keys."""
    return np.asarray(rows.column(column).fill_null(MISSING_KEY).to_numpy(zero_copy_only=False), dtype=np.int64)


def key_lists(rows: pa.RecordBatch, column: str, width: int) -> np.ndarray:
    """Return the keys int64 `[n, width]` of a column of lists of keys, padded and cut as packed rows are."""
    out = np.full((rows.num_rows, width), MISSING_KEY, dtype=np.int64)
    for place, values in enumerate(rows.column(column).to_pylist()):
        used = (values or [])[:width]
        out[place, : len(used)] = used
    return out
