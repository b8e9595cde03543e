"""Writes users, items and behaviours of any number with the sample's columns, for a Redis of that size."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 1 << 18
BEHAVIOURS_PER_USER = 50
SEED = 1
NOW_MS = 1_652_025_600_000


def user_id(number: int) -> str:
    return f"u{number}"


def item_id(number: int) -> str:
    return f"v{number}"


def write_tables(sample: Path, folder: Path, users: int, items: int) -> None:
    """Write `users`, `items` and `behaviours` as folders of Parquet files. Rows are those of the sample in turn."""
    _write_entities(sample / "users.parquet", folder / "users", "user_id", "u", users)
    _write_entities(sample / "items.parquet", folder / "items", "item_id", "v", items)
    _write_behaviours(folder / "behaviours", users, items)


def _write_entities(source: Path, folder: Path, id_column: str, prefix: str, count: int) -> None:
    table = pq.read_table(source).drop_columns([id_column])
    folder.mkdir(parents=True)
    for first in range(0, count, ROWS_PER_FILE):
        numbers = np.arange(first, min(first + ROWS_PER_FILE, count))
        rows = table.take(pa.array(numbers % len(table)))
        pq.write_table(rows.append_column(id_column, _ids(prefix, numbers)), folder / f"part-{first:09}.parquet")


def _write_behaviours(folder: Path, users: int, items: int) -> None:
    """Each user's behaviours stand together, newest last."""
    folder.mkdir(parents=True)
    per_file = ROWS_PER_FILE // BEHAVIOURS_PER_USER
    actions = pa.array(["click", "exposure"])
    for first in range(0, users, per_file):
        rng = np.random.default_rng([SEED, first])
        numbers = np.repeat(np.arange(first, min(first + per_file, users)), BEHAVIOURS_PER_USER)
        rows = len(numbers)
        ages = np.tile(np.arange(BEHAVIOURS_PER_USER, 0, -1), rows // BEHAVIOURS_PER_USER)
        columns = {
            "user_id": _ids("u", numbers),
            "item_id": _ids("v", rng.integers(items, size=rows)),
            "action": actions.take(pa.array(rng.integers(2, size=rows))),
            "scene": pa.array(np.ones(rows, np.int8)),
            "time_ms": pa.array(NOW_MS - 60_000 * ages),
        }
        pq.write_table(pa.table(columns), folder / f"part-{first:09}.parquet")


def _ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.array(np.char.add(prefix, numbers.astype(str)))
