"""Owns reading a canonical table, parquet or CSV, in batches of bounded size, and the errors of one that does not fit the recipe."""

import csv
import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from models.recipe.recipe import DataSection, RecipeError

BATCH_ROWS = 1 << 16
LIST_SEPARATOR = "|"
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Table:
    """One table on disk; `role` is its word in the recipe (`users`, `items`, `behaviours`, `impressions`)."""

    role: str
    path: Path
    columns: tuple[str, ...]

    def require(self, wanted: Mapping[str, str]) -> None:
        """Raise RecipeError unless every column of `{column: what wants it}` is there; names the nearest ones."""
        for column, why in wanted.items():
            if column not in self.columns:
                near = difflib.get_close_matches(column, self.columns, n=3, cutoff=0.5) or list(self.columns)
                raise RecipeError(
                    f"{self.path.name} ({self.role}): no column '{column}', which {why} names; nearest: {', '.join(near)}"
                )

    def batches(self, columns: Sequence[str], lists: frozenset[str] = frozenset()) -> Iterator[tuple[Columns, int]]:
        """`({column: raw values [n]}, n)` batch by batch. A CSV's columns are text; those in `lists` are split at `|`."""
        wanted = list(dict.fromkeys(columns))
        if self.path.suffix == ".parquet":
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
                    yield {name: raw_values(batch.column(name)) for name in wanted}, batch.num_rows
            return
        for batch in _csv_batches(self.path, wanted):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                values = {name: raw_values(part.column(name)) for name in wanted}
                yield {name: _split_lists(v) if name in lists else v for name, v in values.items()}, part.num_rows


def open_table(folder: Path, role: str, file_name: str) -> Table:
    """The table `file_name` of a folder. Raises RecipeError if it is not there or cannot be read."""
    path = folder / file_name
    if not path.is_file():
        found = sorted(p.name for p in folder.iterdir() if p.is_file())
        raise RecipeError(f"data.{role}: no file '{file_name}' in {folder}; found: {', '.join(found) or 'nothing'}")
    try:
        if path.suffix == ".parquet":
            return Table(role, path, tuple(pq.read_schema(path).names))
        if path.suffix == ".csv":
            with path.open(newline="") as lines:
                return Table(role, path, tuple(next(csv.reader(lines), ())))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise RecipeError(f"data.{role}: {path} cannot be read: {error}") from None
    raise RecipeError(f"data.{role}: '{file_name}' is neither .parquet nor .csv")


def data_folder(data: DataSection) -> Path:
    """The folder that `data.dir` or else `data.fallback` names. Raises RecipeError if neither has the impressions."""
    for name in (data.dir, data.fallback):
        if name is not None and (Path(name) / data.impressions).is_file():
            return Path(name)
    tried = " and no ".join(f"'{Path(n) / data.impressions}'" for n in (data.dir, data.fallback) if n)
    advice = (
        data.how_to_get
        or "`python -m models.prepare --help` shows how to make the tables of the recipes that come along"
    )
    raise RecipeError(f"data.dir: there is no {tried}; {advice}")


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _csv_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=columns,
        strings_can_be_null=True,
        null_values=[""],
    )
    with pa_csv.open_csv(path, convert_options=options) as reader:
        yield from reader


def _split_lists(values: np.ndarray) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values.tolist()):
        out[i] = None if value is None else value.split(LIST_SEPARATOR)
    return out


def raw_values(column: pa.Array) -> np.ndarray:
    """An arrow column as numpy `[n]`: numbers stay numbers, null is NaN in floats and None elsewhere, timestamps become milliseconds.

    An integer column with nulls becomes objects, never floats, so that 64-bit ids keep every digit.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms")).cast(pa.int64())
    if pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and not column.null_count):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    out = np.empty(len(column), dtype=object)
    out[:] = column.to_pylist()
    return out


def numbers(values: np.ndarray, table: Table, column: str) -> np.ndarray:
    """Raw values as float64 `[n]`, NaN where missing. Raises RecipeError for text that is no number."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    try:
        return np.array([np.nan if v is None else float(v) for v in values.tolist()], dtype=np.float64)
    except (TypeError, ValueError):
        bad = next(v for v in values.tolist() if v is not None and not _is_number(v))
        raise RecipeError(
            f"{table.path.name} ({table.role}): column '{column}' holds {bad!r}, which is no number"
        ) from None


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def times_ms(values: np.ndarray, table: Table, column: str) -> np.ndarray:
    """Raw times as int64 milliseconds `[n]`, 0 where missing. Raises RecipeError for anything but whole numbers."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    try:
        return np.array([0 if v is None or v != v else int(v) for v in values.tolist()], dtype=np.int64)
    except (TypeError, ValueError):
        raise RecipeError(
            f"{table.path.name} ({table.role}): column '{column}' must hold whole milliseconds since 1970"
        ) from None
