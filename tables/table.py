"""One table, Parquet or CSV: its files, its columns, and its rows in batches of bounded size."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.nearest import near_names
from tables.batch import Batch
from tables.errors import TableError, unreadable
from tables.files import csv_files
from tables.files.table_file import TableFile
from tables.reading import UNREADABLE, file_batches
from tables.types import family


@dataclass(frozen=True)
class Table:
    """One table of one or more files. `role` is its name (`users`, `items`, `behaviours`, `impressions`).

    `place` is its file, folder, pattern or URI. A batch has rows of one file; the files follow in the order of names.
    """

    role: str
    place: str
    files: tuple[TableFile, ...]

    @property
    def path(self) -> Path:
        """The place as a path, for messages; of a single file on a disk also for reading."""
        return self.files[0].path if self.is_one_file else Path(self.place)

    @property
    def is_one_file(self) -> bool:
        """Whether the place names a file, and not several that may become more."""
        return self.files[0].path == Path(self.place)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the first file, those of its partition last."""
        return self.files[0].columns

    @property
    def rows(self) -> int | None:
        """The number of rows; None if a file is a CSV."""
        counts = [file.rows for file in self.files if file.rows is not None]
        return sum(counts) if len(counts) == len(self.files) else None

    @property
    def states(self) -> list[tuple[str, int, int | str]]:
        """Name, size and time of change (or ETag) of every file when the table was opened."""
        return [(file.name, *file.state) for file in self.files]

    @property
    def is_csv(self) -> bool:
        return self.files[0].is_csv

    def require(self, needed: Mapping[str, str], advice: str = "") -> None:
        """Raise TableError unless every file has every column of `{column: what names it}`, with values of one kind.

        `advice` ends the message about a column that no file has.
        """
        for column, why in needed.items():
            without = [file for file in self.files if column not in file.columns]
            if not without:
                continue
            if len(without) == len(self.files):
                message = f"no column '{column}', which {why} names; nearest: {self._nearest(column)}{advice}"
                raise TableError(message, self.path, self.role, column)
            message = f"no column '{column}', which {why} names and which {self._others(without)} have"
            raise self._error(without[0], message, column)
        self._refuse_other_types(list(needed))

    def _others(self, without: list[TableFile]) -> str:
        return f"{len(self.files) - len(without):,} of the {len(self.files):,} files"

    def _refuse_other_types(self, columns: Sequence[str]) -> None:
        """Raise TableError if a column is text in one file and a number in another, or has another such difference."""
        for column in columns:
            first: TableFile | None = None
            for file in self.files:
                kind = _family_in(file, column)
                if kind is None:
                    continue
                first = first or file
                if kind != _family_in(first, column):
                    types = f"{_type_in(file, column)} here and {_type_in(first, column)} in '{first.name}'"
                    message = f"column '{column}' is {types}; the files of a table have one schema"
                    raise self._error(file, message, column)

    def _error(self, file: TableFile, message: str, column: str) -> TableError:
        return TableError(message, file.path, self.role, column, name=file.name)

    def _unreadable(self, file: TableFile, error: Exception) -> TableError:
        return unreadable(error, file.path, self.role, name=file.name)

    def _nearest(self, column: str) -> str:
        names = near_names(column, self.columns, count=3, cutoff=0.5) or self.columns
        return ", ".join(_visible(name) for name in names) or "none"

    def batches(
        self, columns: Sequence[str], lists: Collection[str] = (), after: int = 0, batch_rows: int | None = None
    ) -> Iterator[Batch]:
        """The rows after the first `after` with these columns in canonical types, at most `batch_rows` at a time.

        Text of a CSV is split at `|` in the columns of `lists`. Raises TableError for whatever cannot be read.
        """
        names = list(dict.fromkeys(columns))
        kinds = self.column_kinds(names, lists)
        for file in self.files:
            rows = self._rows_of(file) if after else 0
            if 0 < rows <= after and file is not self.files[-1]:
                after -= rows
                continue
            yield from file_batches(file, self.role, names, lists, kinds, after, batch_rows)
            after = max(0, after - rows)

    def _rows_of(self, file: TableFile) -> int:
        """The rows of a file; those of a CSV are counted, but not of the last one, since nothing follows it."""
        if file.rows is not None:
            return file.rows
        if file is self.files[-1]:
            return 0
        try:
            return sum(batch.num_rows for batch in csv_files.batches(file, file.columns[:1]))
        except UNREADABLE as error:
            raise self._unreadable(file, error) from None

    def column_kinds(self, columns: Sequence[str], lists: Collection[str] = ()) -> dict[str, str]:
        """The columns of CSV files that are numbers or truth values, by all files together. Parquet has its own types.

        Raises TableError for files that differ in a column, or that cannot be read.
        """
        for name in columns:
            if self.columns.count(name) > 1:
                raise TableError(f"column '{name}' occurs twice", self.path, self.role, name)
        self._refuse_other_types(columns)
        files = [file for file in self.files if file.is_csv]
        names = [name for name in columns if not any(name in file.partition for file in files)]
        kinds = csv_files.ColumnKinds(names, lists)
        for file in files:
            try:
                if not kinds.see(file):
                    break
            except UNREADABLE as error:
                raise self._unreadable(file, error) from None
        return kinds.other_than_text

    def as_stored(self, needed: Collection[str] = ()) -> pa.Table:
        """Read the whole table in the types of its Parquet files, or as text of a CSV, for commands that copy tables.

        Integers become floats, and a column without values any type, if another file has them so. The columns of a
        partition are text. Raises TableError if a column of `needed` is missing, and for anything that cannot be read.
        """
        self.require(dict.fromkeys(needed, "the data set's own format"))
        parts = []
        for file in self.files:
            try:
                part = _whole(file)
            except UNREADABLE as error:
                raise self._unreadable(file, error) from None
            for name, value in file.partition.items():
                part = part.append_column(name, pa.repeat(pa.scalar(value, pa.string()), part.num_rows))
            parts.append(part)
        try:
            return pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            raise unreadable(error, self.path, self.role) from None


def _whole(file: TableFile) -> pa.Table:
    """All rows of a file. Raises what pyarrow raises."""
    if file.is_csv:
        columns = [name for name in file.columns if name not in file.partition]
        schema = pa.schema([pa.field(name, pa.string()) for name in columns])
        return pa.Table.from_batches([batch.cast(schema) for batch in csv_files.batches(file, columns)], schema)
    with file.source() as source, pq.ParquetFile(source) as parquet:
        return parquet.read()


def _family_in(file: TableFile, column: str) -> str | None:
    """What a column means in a file; the name of a folder is text, as in Hive `day=03` is not `day=3`."""
    if column in file.partition:
        return None if file.partition[column] is None else "text"
    return family(file.types[column]) if column in file.types else None


def _type_in(file: TableFile, column: str) -> str:
    return "text of a folder's name" if column in file.partition else str(file.types[column])


def _visible(name: str) -> str:
    """Quote a name with spaces at its ends or characters that are not printed, which would look like another name."""
    return name if name == name.strip() and name.isprintable() else repr(name)
