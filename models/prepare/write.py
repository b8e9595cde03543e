"""Writes canonical tables as small Parquet files (zstd), whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.files.unfinished import OWNER, remove_abandoned, unfinished_folder
from features.files.writing import naming_full_disk, replacing

_PREPARING = ".prepare-"


def write_table(table: pa.Table, path: Path, delta: tuple[str, ...] = (), row_group: int = 1 << 20) -> int:
    """Write a table and return its size in bytes; the columns of `delta` (sorted integers) are stored as differences.

    `row_group`: rows per group; a column whose values change character at some row packs better if a group ends there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        pq.write_table(
            table,
            unfinished,
            compression="zstd",
            compression_level=19,
            row_group_size=row_group,
            use_dictionary=[name for name in table.column_names if name not in delta],
            column_encoding=dict.fromkeys(delta, "DELTA_BINARY_PACKED") if delta else None,
            write_statistics=False,
        )
    return path.stat().st_size


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder to write tables to; at the end of the block its files move to `out`.

    If the block fails or is interrupted, `out` keeps its files: tables of two runs are never mixed.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out, f"{_PREPARING}*")
    with unfinished_folder(out, _PREPARING) as unfinished:
        with naming_full_disk(out):
            yield unfinished
        for path in sorted(unfinished.iterdir()):
            if path.name != OWNER:
                path.replace(out / path.name)
