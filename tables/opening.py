"""Opens and finds tables."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tables.errors import TableError, unreadable
from tables.files import csv_files
from tables.files.foreign import foreign_format
from tables.files.listing import SUFFIXES, is_one_file, list_files
from tables.files.table_file import TableFile
from tables.reading import UNREADABLE
from tables.table import Table

_READERS = 16  # files whose heads are read at once; an object store takes tens of milliseconds for each


def open_table(place: Path | str, role: str) -> Table:
    """Open the table of a file, a folder, a pattern or a URI; `tables/files/listing.py` says what they are.

    Raises TableError if there is none, if a file has another format or cannot be read, or if Parquet and CSV are mixed.
    """
    place = str(place)
    if is_one_file(place) and not place.endswith(SUFFIXES):
        raise TableError(f"'{Path(place).name}' is neither .parquet nor .csv", Path(place), role)
    try:
        files = list_files(place)
    except UNREADABLE as error:
        raise unreadable(error, Path(place), role) from None
    if not files:
        raise TableError("cannot be read: there is no such file, and nothing in such a folder", Path(place), role)
    _refuse_mixed(files, role)
    with ThreadPoolExecutor(_READERS) as pool:
        opened = tuple(pool.map(lambda file: _opened(file, role), files))
    return Table(role, place, opened)


def _refuse_mixed(files: Sequence[TableFile], role: str) -> None:
    """Raise TableError for the first file that is neither Parquet nor CSV, or not what the first file is."""
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise TableError(f"'{file.path.name}' is neither .parquet nor .csv", file.path, role, name=file.name)
        if file.is_csv != files[0].is_csv:
            message = f"is beside '{files[0].name}', but a table is all Parquet or all CSV"
            raise TableError(message, file.path, role, name=file.name)


def _opened(file: TableFile, role: str) -> TableFile:
    """Read the columns of a file from its head or foot. A column of the file hides one of its folders."""
    try:
        if file.is_csv:
            problem = foreign_format(file)
            if problem:
                raise TableError(problem, file.path, role, name=file.name)
            columns = csv_files.column_names(file)
            types: dict[str, pa.DataType] = {}
            rows = None
        else:
            with file.source() as source, pq.ParquetFile(source) as parquet:
                columns = tuple(parquet.schema_arrow.names)
                types = dict(zip(columns, parquet.schema_arrow.types, strict=True))
                rows = parquet.metadata.num_rows
    except UNREADABLE as error:
        raise unreadable(error, file.path, role, name=file.name) from None
    partition = {name: value for name, value in file.partition.items() if name not in columns}
    return replace(file, partition=partition, columns=(*columns, *partition), types=types, rows=rows)


def find_table(folder: Path, role: str, name: str | None = None) -> Table | None:
    """Open the table `name` of a folder, or else `<role>.parquet` or `<role>.csv`, files or folders; None if there is
    none.

    Raises TableError for a file that cannot be read.
    """
    if name is not None and not is_one_file(place_in(folder, name)):
        return open_table(place_in(folder, name), role)
    names = [name] if name else []
    for file_name in [*names, *(f"{role}{suffix}" for suffix in SUFFIXES)]:
        if (folder / file_name).exists():
            return open_table(folder / file_name, role)
    _refuse_near_miss(folder, role)
    return None


def place_in(folder: Path | str, name: str) -> str:
    """The place of a table: its name in a folder, which may be a URI; a name may be a URI or absolute itself."""
    if "://" in name or name.startswith("/"):
        return name
    return f"{str(folder).rstrip('/')}/{name}"


def _refuse_near_miss(folder: Path, role: str) -> None:
    """Raise TableError for `users.csv.gz` or `Users.CSV`: they hold the table, unread."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in entries:
        if path.name.lower().startswith(tuple(f"{role}{suffix}" for suffix in SUFFIXES)):
            named = f"{role}.parquet or {role}.csv"
            raise TableError(f"'{path.name}' is not read; a table is one file, or a folder, {named}", path, role)
