"""Cuts canonical tables down to a size that fits into a repository, whole users at a time."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.prepare.write import write_table
from tables import open_table

TABLES = ("users", "items", "behaviours", "impressions")
TRIES = 8


def sample_tables(source: Path, out: Path, max_bytes: int, seed: int) -> dict[str, int]:
    """Copy the tables, or a seeded subset of whole users, into at most `max_bytes`; return the number of rows of each.

    A data set with only one user is cut by item. Raises FileNotFoundError, TableError, or ValueError if nothing would
    be left.
    """
    present = [name for name in TABLES if (source / f"{name}.parquet").exists()]
    if "impressions" not in present:
        raise FileNotFoundError(
            f"{source / 'impressions.parquet'}: no such table; "
            "run `python -m models.prepare kuairand` (or census) first"
        )
    # Files that are not tables, such as a licence, are copied whole.
    out.mkdir(parents=True, exist_ok=True)
    size = sum((source / f"{name}.parquet").stat().st_size for name in present)
    other_files = [p for p in source.iterdir() if p.is_file() and p.suffix != ".parquet"]
    for path in other_files:
        shutil.copyfile(path, out / path.name)
    if size <= max_bytes:
        for name in present:
            shutil.copyfile(source / f"{name}.parquet", out / f"{name}.parquet")
        return {name: open_table(out / f"{name}.parquet", name).rows or 0 for name in present}
    # The share of users is lowered until the files fit.
    tables = {name: _whole(source, name) for name in present}
    share = 0.95 * max_bytes / size
    for _ in range(TRIES):
        subset = _subset(tables, share, seed)
        written = sum(write_table(table, out / f"{name}.parquet") for name, table in subset.items())
        if written <= max_bytes and subset["impressions"].num_rows:
            return {name: table.num_rows for name, table in subset.items()}
        share *= 0.9 * max_bytes / written
    raise ValueError(f"no subset of {source} fits into {max_bytes} bytes")


def _whole(source: Path, name: str) -> pa.Table:
    needed = {"users": ("user_id",), "items": ("item_id",)}.get(name, ("user_id", "item_id"))
    return open_table(source / f"{name}.parquet", name).as_stored(needed)


def _subset(tables: dict[str, pa.Table], share: float, seed: int) -> dict[str, pa.Table]:
    impressions = tables["impressions"]
    unit = "user_id" if pc.count_distinct(impressions["user_id"]).as_py() > 1 else "item_id"
    distinct = np.sort(impressions[unit].unique().to_numpy(zero_copy_only=False))
    rng = np.random.default_rng(seed)
    chosen = pa.array(np.sort(rng.permutation(distinct)[: max(1, round(share * len(distinct)))]))
    subset = {
        name: table.filter(_among(table[unit], chosen)) if unit in table.column_names else table
        for name, table in tables.items()
    }
    if unit == "user_id" and "items" in subset:
        seen = [subset[name]["item_id"].unique() for name in ("impressions", "behaviours") if name in subset]
        ids = pa.concat_arrays([s.cast(pa.int64()) if pa.types.is_integer(s.type) else s for s in seen]).unique()
        subset["items"] = subset["items"].filter(_among(subset["items"]["item_id"], ids))
    return subset


def _among(column: pa.ChunkedArray, ids: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=ids.cast(column.type))
