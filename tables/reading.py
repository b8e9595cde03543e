"""Reads the rows of one file of a table as batches in canonical types."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tables.batch import Batch
from tables.errors import TableError, unreadable
from tables.files import csv_files
from tables.files.table_file import TableFile
from tables.types import TypeRefusedError, canonical, is_text

BATCH_ROWS = 1 << 16
UNREADABLE = (pa.ArrowException, OSError, UnicodeError, OverflowError)  # what pyarrow raises for a broken file


def file_batches(
    file: TableFile,
    role: str,
    columns: Sequence[str],
    lists: Collection[str],
    kinds: Mapping[str, str],
    after: int = 0,
    batch_rows: int | None = None,
) -> Iterator[Batch]:
    """The rows of a file after the first `after`, at most `batch_rows` at a time.

    `kinds` are those of `Table.column_kinds`: a column has one type in all files. Raises TableError.
    """
    size = batch_rows or BATCH_ROWS
    for first, read in _read(file, role, columns, size, after):
        for start in range(max(after - first, 0), read.num_rows, size):
            yield _batch(file, role, columns, read.slice(start, size), first + start, kinds, lists)
    # A file that a program still writes gives half a row at its end, or types of later rows.
    try:
        changed = file.current_state() != file.state
    except UNREADABLE as error:
        raise unreadable(error, file.path, role, name=file.name) from None
    if changed:
        problem = "changed while it was read; run the command again once it is complete"
        raise TableError(problem, file.path, role, name=file.name)


def _read(
    file: TableFile, role: str, columns: Sequence[str], size: int, after: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the file's record batches, each with the number of rows before it.

    Only errors of reading are converted; errors of the caller pass through.
    """
    # A column at least is read, which tells the number of rows.
    stored = [name for name in columns if name not in file.partition] or [file.columns[0]]
    try:
        if file.is_csv:
            yield from _counted(csv_files.batches(file, stored), 0)
            return
        with file.source() as source, pq.ParquetFile(source) as parquet:
            groups, done = _groups_after(parquet, after)
            if groups:
                yield from _counted(parquet.iter_batches(batch_size=size, row_groups=groups, columns=stored), done)
    except UNREADABLE as error:
        raise unreadable(error, file.path, role, name=file.name) from None


def _batch(
    file: TableFile,
    role: str,
    columns: Sequence[str],
    part: pa.RecordBatch,
    row: int,
    kinds: Mapping[str, str],
    lists: Collection[str],
) -> Batch:
    arrays = []
    fields = []
    types = {}
    for name in columns:
        if name in file.partition:
            field = pa.field(name, pa.string())
            values = pa.repeat(pa.scalar(file.partition[name], pa.string()), part.num_rows)
        else:
            field = part.schema.field(name)
            values = _canonical(file, role, part.column(name), name, row, kinds.get(name), name in lists)
        # Fields keep their metadata: a column of keys declares itself there.
        arrays.append(values)
        fields.append(field.with_type(values.type))
        types[name] = field.type
    return Batch(file, role, row, pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)), types)


def _canonical(
    file: TableFile, role: str, column: pa.Array, name: str, row: int, kind: str | None, as_list: bool
) -> pa.Array:
    try:
        values = canonical(column)
        return csv_files.typed(values, kind, as_list) if file.is_csv else values
    except TypeRefusedError as error:
        raise TableError(f"column '{name}' {error}", file.path, role, name, name=file.name) from None
    except UNREADABLE as error:
        place = _first_bad(column)
        at = None if place is None else row + place + 1
        if is_text(column.type) and place is not None:
            message = f"column '{name}' holds bytes that are not UTF-8: {_bytes_at(column, place)!r}"
            raise TableError(message, file.path, role, name, at, file.name) from None
        raise unreadable(error, file.path, role, name, at, file.name) from None


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
        except UNREADABLE:
            return place
    return None


def _bytes_at(column: pa.Array, place: int) -> bytes:
    value = column.slice(place, 1).cast(pa.large_binary())[0].as_py()
    return bytes(value[:60])
