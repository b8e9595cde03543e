"""Erases a user from training tables, and searches them for what is left."""

import math
import shutil
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.files.writing import replacing
from loop.errors import LogError
from loop.join.join import PIECES, RECIPE_FILE
from loop.log.hours import opened_parquet
from models.recipe import load_recipe
from models.recipe.sections.data import USER_ROW

_ITEMS = "items.parquet"  # has no user
_INDEX = "impressions.parquet"  # erased last: it alone says which rows of users are the user's


def forget_in_tables(folder: Path, user_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many rows were removed by table, and how many are left. Every table is replaced whole.

    A row is the user's if it has the user's id, or the `user_row` of one of the user's impressions. It may be
    interrupted and run again. Raises LogError for a folder without tables, with CSV files, or of an unfinished join.
    """
    tables = _tables_of(folder)
    # The rows of each hour are made again by the next join, from a log without the user.
    if (folder / PIECES).is_dir():
        shutil.rmtree(folder / PIECES)
    recipe = folder / RECIPE_FILE
    column = load_recipe(recipe).data.user_id if recipe.exists() else "user_id"
    _refuse_unsearchable(folder, tables, column)
    index = folder / _INDEX
    rows = _user_rows(index, column, user_id) if index.exists() else set()
    removed = {path.name: _rewrite(path, column, user_id, rows) for path in tables}
    counts = {path.name: _count(path, column, user_id, rows) for path in tables}
    return removed, {str(folder / name): count for name, count in counts.items() if count}


def _tables_of(folder: Path) -> list[Path]:
    tables = sorted(folder.glob("*.parquet"), key=lambda path: (path.name == _INDEX, path.name))
    csvs = sorted(folder.glob("*.csv"))
    if csvs or not tables:
        problem = f"has CSV files such as {csvs[0].name}, which are not rewritten" if csvs else "has no tables"
        raise LogError(f"{folder} {problem}; name a folder of Parquet tables, as `funnelrank join` writes them")
    for path in folder.glob(".join-*"):
        raise LogError(f"{path}: a join runs there, or was killed; wait for its end, or remove this folder")
    for path in tables:  # left by a run that was killed
        for unfinished in folder.glob(f".{path.name}.*"):
            unfinished.unlink()
    return tables


def _refuse_unsearchable(folder: Path, tables: Collection[Path], column: str) -> None:
    """Raise LogError for tables in which the user's rows would not be seen, and so would be left without a word."""
    inner = sorted(p for suffix in ("parquet", "csv") for p in folder.glob(f"*/**/*.{suffix}") if p.is_file())
    if inner:
        problem = f"has tables in folders, such as {inner[0].relative_to(folder)}, which are not rewritten"
        raise LogError(f"{folder} {problem}; name each folder of Parquet files by itself")
    for path in tables:
        with opened_parquet(path) as file:
            names = file.schema_arrow.names
        if path.name != _ITEMS and column not in names and USER_ROW not in names:
            problem = f"has neither a column '{column}' nor '{USER_ROW}', so its users are not known"
            raise LogError(f"{path} {problem}; data.user_id of a {RECIPE_FILE} beside it names the column")


def _user_rows(path: Path, column: str, user_id: str) -> set[int]:
    rows: set[int] = set()
    with opened_parquet(path) as file:
        names = [name for name in (column, USER_ROW) if name in file.schema_arrow.names]
        if len(names) == 2:
            for batch in file.iter_batches(columns=names):
                rows.update(batch.filter(_is_user(batch, column, user_id)).column(USER_ROW).to_pylist())
    return rows - {None}


def _own(batch: pa.RecordBatch, column: str, user_id: str, rows: Collection[int]) -> pa.Array:
    """Return for each row whether it is the user's."""
    is_own = pa.array([False] * len(batch))
    if column in batch.schema.names:
        is_own = pc.or_(is_own, _is_user(batch, column, user_id))
    if USER_ROW in batch.schema.names:
        is_own = pc.or_(is_own, pc.is_in(batch.column(USER_ROW), value_set=pa.array(sorted(rows), pa.int64())))
    return is_own


def _is_user(batch: pa.RecordBatch, column: str, user_id: str) -> pa.Array:
    values = batch.column(column)
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        # Whole numbers with gaps are floats in a table of pandas: 712.0 is the user 712.
        digits = user_id.removeprefix("-")
        whole = float(user_id) if digits.isdecimal() and str(int(user_id)) == user_id else math.nan
        return pc.fill_null(pc.equal(values.cast(pa.float64()), whole), False)
    return pc.fill_null(pc.equal(values.cast(pa.string()), user_id), False)


def _count(path: Path, column: str, user_id: str, rows: Collection[int]) -> int:
    with opened_parquet(path) as file:
        names = [name for name in (column, USER_ROW) if name in file.schema_arrow.names]
        if not names:
            return 0
        batches = file.iter_batches(columns=names)
        return sum(int(_own(batch, column, user_id, rows).true_count) for batch in batches)


def _rewrite(path: Path, column: str, user_id: str, rows: Collection[int]) -> int:
    removed = _count(path, column, user_id, rows)
    if not removed:
        return 0
    with pq.ParquetFile(path) as file, replacing(path) as temporary:
        schema = file.schema_arrow
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in file.iter_batches():
                remaining_rows = batch.filter(pc.invert(_own(batch, column, user_id, rows)))
                writer.write_batch(pa.RecordBatch.from_arrays(remaining_rows.columns, schema=schema))
    return removed
