"""Reads the wide records of some exposures beside what DuckDB knows of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from loop.log.hours import opened_parquet

# Exposures in memory at once: one with 2,000 candidates may have a MiB, and its Python objects several times that.
_MOST_ROWS = 256
_BATCH_BYTES = 16 << 20


def exposures_in(
    database: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], files: Sequence[Path]
) -> Iterator[dict[str, Any]]:
    """The exposures that a table names by `filename` and `file_row_number`, with its `columns`, in the log's order.

    The wide records are read in batches and never sorted.
    """
    query = (
        f"SELECT file_row_number, {', '.join(columns)} FROM {table} "  # nosec B608 # our own names
        "WHERE filename = ? AND file_row_number >= ? AND file_row_number < ? ORDER BY file_row_number"
    )
    for path in files:
        first = 0
        with opened_parquet(path) as file:
            for batch in file.iter_batches(batch_size=_batch_rows(file)):
                chosen = database.execute(query, [str(path), first, first + len(batch)]).fetchall()
                rows = batch.take(pa.array([row[0] - first for row in chosen], pa.int64())).to_pylist()
                first += len(batch)
                for row, (_, *values) in zip(rows, chosen, strict=True):
                    yield row | dict(zip(columns, values, strict=True))


def _batch_rows(file: pq.ParquetFile) -> int:
    """How many records of a file are read at once, by their mean size before compression."""
    metadata = file.metadata
    size = sum(int(metadata.row_group(place).total_byte_size) for place in range(metadata.num_row_groups))
    mean = max(1, size // max(1, int(metadata.num_rows)))
    return max(1, min(_MOST_ROWS, _BATCH_BYTES // mean))
