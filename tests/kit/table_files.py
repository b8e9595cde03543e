"""Writes small tables and reads them, for the tests of the one reader."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from tables import Batch, Table, open_table


def parquet(folder: Path, columns: dict[str, object], **options: object) -> Table:
    pa.parquet.write_table(pa.table(columns), folder / "items.parquet", **options)
    return open_table(folder / "items.parquet", "items")


def csv(folder: Path, content: bytes | str) -> Table:
    (folder / "items.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return open_table(folder / "items.csv", "items")


def only(table: Table, *lists: str) -> Batch:
    (batch,) = table.batches(table.columns, lists)
    return batch
