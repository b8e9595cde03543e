"""One table on disk, Parquet or CSV: its columns, and its rows in batches of bounded size."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.nearest import near_names
from tables import csv_files
from tables.batch import Batch
from tables.errors import TableError, unreadable
from tables.foreign import foreign_format
from tables.types import TypeRefusedError, canonical, is_text

BATCH_ROWS = 1 << 16
SUFFIXES = (".parquet", ".csv")
_BELOW = (pa.ArrowException, OSError, UnicodeError, OverflowError)  # what pyarrow raises for a broken file


@dataclass(frozen=True)
class Table:
    """One table. `role` is its name (`users`, `items`, `behaviours`, `impressions`); `rows` is None for a CSV.

    `state` is the file's size and time of change when it was opened.
    """

    role: str
    path: Path
    columns: tuple[str, ...]
    rows: int | None = None
    state: tuple[int, int] | None = None

    @property
    def is_csv(self) -> bool:
        return self.path.suffix == ".csv"

    def require(self, needed: Mapping[str, str], advice: str = "") -> None:
        """Raise TableError unless every column of `{column: what names it}` exists; `advice` ends the message."""
        for column, why in needed.items():
            if column not in self.columns:
                raise TableError(
                    f"no column '{column}', which {why} names; nearest: {self._nearest(column)}{advice}",
                    self.path,
                    self.role,
                    column,
                )

    def _nearest(self, column: str) -> str:
        names = near_names(column, self.columns, count=3, cutoff=0.5) or self.columns
        return ", ".join(_visible(name) for name in names) or "none"

    def batches(
        self, columns: Sequence[str], lists: Collection[str] = (), after: int = 0, batch_rows: int | None = None
    ) -> Iterator[Batch]:
        """The rows after the first `after` with these columns in canonical types, at most `batch_rows` at a time.

        Text of a CSV is split at `|` in the columns of `lists`. Raises TableError for whatever cannot be read.
        """
        size = batch_rows or BATCH_ROWS
        names = list(dict.fromkeys(columns))
        for name in names:
            if self.columns.count(name) > 1:
                raise TableError(f"column '{name}' occurs twice", self.path, self.role, name)
        kinds = self._kinds(names, lists)
        for first, read in self._read(names, size, after):
            for start in range(max(after - first, 0), read.num_rows, size):
                yield self._batch(read.slice(start, size), first + start, kinds, lists)
        # A file that a program still writes gives half a row at its end, or types of rows that came later.
        if self.state is not None and self.state != _state(self.path):
            problem = "changed while it was read; run the command again once it is complete"
            raise TableError(problem, self.path, self.role)

    def as_stored(self, needed: Collection[str] = ()) -> pa.Table:
        """Read the whole Parquet table in the types of its file, for commands that copy or cut tables.

        Raises TableError if a column of `needed` is missing, and for anything that cannot be read.
        """
        self.require(dict.fromkeys(needed, "the data set's own format"))
        try:
            with pq.ParquetFile(self.path) as file:
                return file.read()
        except _BELOW as error:
            raise unreadable(error, self.path, self.role) from None

    def _kinds(self, names: list[str], lists: Collection[str]) -> dict[str, str]:
        """Return the columns of a CSV that are numbers or truth values. A Parquet file has its own types."""
        if not self.is_csv:
            return {}
        try:
            return csv_files.column_kinds(self.path, names, lists)
        except _BELOW as error:
            raise unreadable(error, self.path, self.role) from None

    def _read(self, names: list[str], size: int, after: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the file's record batches, each with the number of rows before it.

        Only errors of reading are converted; errors of the caller pass through.
        """
        try:
            if self.is_csv:
                yield from _counted(csv_files.batches(self.path, names), 0)
                return
            with pq.ParquetFile(self.path) as file:
                groups, done = _groups_after(file, after)
                if groups:
                    yield from _counted(file.iter_batches(batch_size=size, row_groups=groups, columns=names), done)
        except _BELOW as error:
            raise unreadable(error, self.path, self.role) from None

    def _batch(self, part: pa.RecordBatch, row: int, kinds: Mapping[str, str], lists: Collection[str]) -> Batch:
        names = part.schema.names
        arrays = [self._canonical(part.column(name), name, row, kinds.get(name), name in lists) for name in names]
        types = {name: part.column(name).type for name in names}
        # Fields keep their metadata: a column of keys declares itself there.
        fields = [part.schema.field(name).with_type(array.type) for name, array in zip(names, arrays, strict=True)]
        rows = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        return Batch(self.path, self.role, row, rows, types)

    def _canonical(self, column: pa.Array, name: str, row: int, kind: str | None, as_list: bool) -> pa.Array:
        try:
            values = canonical(column)
            return csv_files.typed(values, kind, as_list) if self.is_csv else values
        except TypeRefusedError as error:
            raise TableError(f"column '{name}' {error}", self.path, self.role, name) from None
        except _BELOW as error:
            place = _first_bad(column)
            if is_text(column.type) and place is not None:
                message = f"column '{name}' holds bytes that are not UTF-8: {_bytes_at(column, place)!r}"
                raise TableError(message, self.path, self.role, name, row + place + 1) from None
            raise unreadable(error, self.path, self.role, name, None if place is None else row + place + 1) from None


def open_table(path: Path, role: str) -> Table:
    """Open the table of a file. Raises TableError if it does not exist, has another format, or cannot be read."""
    if path.suffix not in SUFFIXES:
        raise TableError(f"'{path.name}' is neither .parquet nor .csv", path, role)
    try:
        state = _state(path)
        if path.suffix == ".csv":
            problem = foreign_format(path)
            if problem:
                raise TableError(problem, path, role)
            return Table(role, path, csv_files.column_names(path), state=state)
        with pq.ParquetFile(path) as file:
            return Table(role, path, tuple(file.schema_arrow.names), file.metadata.num_rows, state)
    except _BELOW as error:
        raise unreadable(error, path, role) from None


def find_table(folder: Path, role: str, file_name: str | None = None) -> Table | None:
    """Open the table `file_name` of a folder, or else `<role>.parquet` or `<role>.csv`; None if there is none.

    Raises TableError for a file that cannot be read.
    """
    names = [file_name] if file_name else []
    for name in [*names, *(f"{role}{suffix}" for suffix in SUFFIXES)]:
        if (folder / name).is_file():
            return open_table(folder / name, role)
    _refuse_near_miss(folder, role)
    return None


def _refuse_near_miss(folder: Path, role: str) -> None:
    """Raise TableError for `users.csv.gz`, `Users.CSV` or a folder `users.parquet`: they hold the table, unread."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in entries:
        if path.name.lower().startswith(tuple(f"{role}{suffix}" for suffix in SUFFIXES)):
            what = "a folder" if path.is_dir() else "not read"
            raise TableError(f"'{path.name}' is {what}; a table is one file, {role}.parquet or {role}.csv", path, role)


def _visible(name: str) -> str:
    """Quote a name with spaces at its ends or characters that are not printed, which would look like another name."""
    return name if name == name.strip() and name.isprintable() else repr(name)


def _counted(batches: Iterator[pa.RecordBatch], first: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in batches:
        yield first, batch
        first += batch.num_rows


def _groups_after(file: pq.ParquetFile, after: int) -> tuple[list[int], int]:
    """Return the row groups that contain rows after the first `after`, and the number of rows before them."""
    done = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if done + rows > after:
            return list(range(group, file.num_row_groups)), done
        done += rows
    return [], done


def _first_bad(column: pa.Array) -> int | None:
    """Return the first row that has no canonical value by itself; None if only the column as a whole has none."""
    for place in range(len(column)):
        try:
            canonical(column.slice(place, 1))
        except _BELOW:
            return place
    return None


def _bytes_at(column: pa.Array, place: int) -> bytes:
    value = column.slice(place, 1).cast(pa.large_binary())[0].as_py()
    return bytes(value[:60])


def _state(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the time of the last change in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
