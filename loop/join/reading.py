"""Reads the wide records of some exposures beside what DuckDB knows of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

_BATCH = 256  # exposures in memory at once


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
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                chosen = database.execute(query, [str(path), first, first + len(batch)]).fetchall()
                rows = batch.take(pa.array([row[0] - first for row in chosen], pa.int64())).to_pylist()
                first += len(batch)
                for row, (_, *values) in zip(rows, chosen, strict=True):
                    yield row | dict(zip(columns, values, strict=True))
