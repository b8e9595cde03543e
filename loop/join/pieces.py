"""Writes the tables of a join from pieces, one per hour of the log; an hour that did not change keeps its piece.

PIECES/<hour>-<key>/<table>.parquet

The key names everything that the rows of an hour depend on: its file, the places and labels of its impressions, the
recipe's columns, and the feature schemas. So a piece that is there is right, and a late event rewrites its hour alone.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from features.files.writing import replacing
from features.layouts import Layouts
from loop.errors import LogError
from loop.join.labels import arrow_reader, quoted
from loop.join.reading import exposures_in
from loop.join.tables import ROLES, JoinedRows, add_exposure, arrow_schemas, as_table
from loop.log.hours import opened_parquet
from models.recipe import Recipe
from models.recipe.sections.data import ITEM_ROW, USER_ROW

_FORMAT: Final = "1"  # of the rows that this release makes; another one rewrites every hour
_GROUP_ROWS = 50_000
# Rows of users, items and behaviours that are equal are one row.
_KEYS: Final = {"users": [USER_ROW], "items": [ITEM_ROW], "behaviours": [USER_ROW, "place"]}


@dataclass
class WrittenTables:
    """Counts of rows by table, of hours that were written, and of hours that had not changed."""

    rows: dict[str, int] = field(default_factory=dict)
    hours_written: int = 0
    hours_unchanged: int = 0


def write_tables(
    database: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    layouts: Mapping[str, Layouts],
    files: Sequence[Path],
    columns: Sequence[str],
    out: Path,
    pieces: Path,
) -> WrittenTables:
    """Write the tables of the exposures in `labelled` to `out`, and the pieces of their hours to `pieces`.

    `layouts` are those of the schemas that the recipe can read; `columns` those of `labelled` that the rows need.
    Memory: one row group, and what DuckDB may use to remove rows that are repeated.
    """
    done = WrittenTables()
    schemas = arrow_schemas(recipe)
    recipe_key = _hash(_FORMAT, recipe.features.model_dump_json(), *map(str, schemas.values()), *sorted(layouts))
    with _alone(pieces):
        # One piece per hour with impressions.
        folders: list[Path] = []
        for path in files:
            chosen = _chosen_key(database, path, columns)
            if not chosen:
                continue
            folder = pieces / f"{path.parent.name}-{_hash(recipe_key, _file_key(path), chosen)}"
            folders.append(folder)
            if folder.is_dir():
                done.hours_unchanged += 1
                continue
            done.hours_written += 1
            with _whole_folder(folder) as unfinished:
                _write_piece(database, recipe, layouts, path, columns, unfinished)
        # The tables.
        for role in ROLES:
            done.rows[role] = _merge(database, [folder / f"{role}.parquet" for folder in folders], role, schemas, out)
        # Pieces of an earlier log or recipe, and those that a killed join has left.
        for path in pieces.iterdir():
            if path.is_dir() and path not in folders:
                shutil.rmtree(path)
    return done


def _chosen_key(database: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[str]) -> str:
    """Name the places and labels of an hour's impressions; empty if it has none."""
    names = ", ".join(quoted(column) for column in columns)
    query = (
        f"SELECT count(*), sum(h), bit_xor(h) FROM (SELECT hash(file_row_number, {names})::HUGEINT AS h "  # nosec B608
        "FROM labelled WHERE filename = ?)"
    )
    count, *sums = database.execute(query, [str(path)]).fetchall()[0]
    return f"{duckdb.__version__} {count} {sums}" if count else ""


def _file_key(path: Path) -> str:
    """Name the content of a file by its size, its time and the statistics of its columns."""
    status = path.stat()
    with path.open("rb") as file:
        file.seek(max(0, status.st_size - (1 << 16)))
        end = file.read()
    return _hash(str(status.st_size), str(status.st_mtime_ns), end.hex())


def _hash(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


@contextmanager
def _alone(pieces: Path) -> Iterator[None]:
    """Hold the lock of the pieces. Raises LogError if another join has it."""
    pieces.mkdir(parents=True, exist_ok=True)
    with (pieces / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogError(f"another join writes to {pieces}") from None
        yield


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to; it gets its name when it is complete."""
    unfinished = Path(tempfile.mkdtemp(prefix=".piece-", dir=folder.parent))
    try:
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _write_piece(
    database: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    layouts: Mapping[str, Layouts],
    path: Path,
    columns: Sequence[str],
    folder: Path,
) -> None:
    """Write the rows of one hour, in the log's order."""
    schemas = arrow_schemas(recipe)
    with ExitStack() as stack:
        writers = {
            role: stack.enter_context(pq.ParquetWriter(folder / f"{role}.parquet", schemas[role], compression="zstd"))
            for role in ROLES
        }
        rows = JoinedRows()
        for exposure in exposures_in(database, "labelled", columns, [path]):
            if exposure["schema"] not in layouts:
                continue
            add_exposure(rows, exposure, recipe, layouts[exposure["schema"]])
            if len(rows) >= _GROUP_ROWS:
                _flush(rows, writers, schemas)
                rows = JoinedRows()
        _flush(rows, writers, schemas)


def _flush(rows: JoinedRows, writers: Mapping[str, pq.ParquetWriter], schemas: Mapping[str, pa.Schema]) -> None:
    for role, columns in rows.columns.items():
        if columns:
            writers[role].write_table(as_table(columns, schemas[role]))


def _merge(
    database: duckdb.DuckDBPyConnection, paths: Sequence[Path], role: str, schemas: Mapping[str, pa.Schema], out: Path
) -> int:
    """Write a table to its place, without rows that are repeated if it has keys; return how many rows it has."""
    rows = 0
    schema = schemas[role]
    if role in _KEYS:
        names = ", ".join(_KEYS[role])
        query = f"SELECT DISTINCT ON ({names}) * FROM read_parquet(?) ORDER BY {names}"  # nosec B608 # our own names
        batches = arrow_reader(database, query, [[str(path) for path in paths]], _GROUP_ROWS) if paths else ()
    else:
        batches = _in_order(paths)
    with (
        replacing(out / f"{role}.parquet") as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            rows += batch.num_rows
    return rows


def _in_order(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The rows of some files, as batches of about `_GROUP_ROWS`: a quiet hour must not be a row group of its own."""
    group: list[pa.RecordBatch] = []
    for path in paths:
        with opened_parquet(path) as file:
            for batch in file.iter_batches(batch_size=_GROUP_ROWS):
                group.append(batch)
                if sum(each.num_rows for each in group) >= _GROUP_ROWS:
                    yield pa.concat_batches(group)
                    group = []
    if group:
        yield pa.concat_batches(group)
