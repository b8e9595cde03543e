"""CSV files: their dialect, and what a column was before it became text.

A CSV says nothing of types. Every column is read as text, and is text, except where all its values together show what
it was:

    3.0, 4.0, (empty)      numbers in which integers with gaps were stored, so float64: `39.0` is then the integer 39
    True, False, (empty)   truth (in one of the spellings True, true, TRUE)

`1.0` beside `1.1` stays text (a version), and so does `007`.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tables.files.table_file import TableFile

BLOCK_BYTES = 1 << 22  # the longest row that can be read
LIST_SEPARATOR = "|"
_LONGEST_HEAD = 1 << 20  # bytes
_INTEGER = r"-?(0|[1-9][0-9]*)"
_FLOAT = r"(-?(0|[1-9][0-9]*)\.0|-?[0-9](\.[0-9]+)?e\+[0-9]+)"  # as Python, pandas and Arrow write a whole float64
_TRUTHS = (("True", "False"), ("true", "false"), ("TRUE", "FALSE"))


def column_names(file: TableFile) -> tuple[str, ...]:
    """Return the names in the head, without a byte order mark. Raises pyarrow's errors, OSError."""
    with _opened(file, pa_csv.ConvertOptions(column_types={})) as reader:
        return tuple(reader.schema.names)


def batches(file: TableFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the columns as bytes, null if empty, block by block; a quoted value may contain line breaks."""
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.binary()),
        include_columns=list(columns),
        strings_can_be_null=True,
        null_values=[""],
    )
    with _opened(file, options) as reader:
        yield from reader


@contextmanager
def _opened(file: TableFile, options: pa_csv.ConvertOptions) -> Iterator[pa_csv.CSVStreamingReader]:
    with (
        file.source() as source,
        pa_csv.open_csv(
            _with_line_end(file, source),
            read_options=pa_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=options,
        ) as reader,
    ):
        yield reader


def _with_line_end(file: TableFile, source: Path | BinaryIO) -> Path | BinaryIO | pa.BufferReader:
    """Return the file, or its only line with a line end: pyarrow takes a head without one for an empty file."""
    with file.open() as opened:
        head = opened.readline(_LONGEST_HEAD)
        alone = not head.endswith((b"\n", b"\r")) and not opened.read(1)
    return pa.BufferReader(head + b"\n") if alone and head.strip() and b"\r" not in head else source


class ColumnKinds:
    """What the columns of CSV files are by all their values together: `float`, `truth`, or text."""

    def __init__(self, columns: Sequence[str], lists: Collection[str] = ()) -> None:
        self._guesses = {name: _Guess(name in lists) for name in columns}

    def see(self, file: TableFile) -> bool:
        """Read a file; False as soon as every column must be text. Raises pyarrow's errors, OSError."""
        if not self._guesses:
            return False
        for batch in batches(file, tuple(self._guesses)):
            for name, guess in self._guesses.items():
                guess.see(batch.column(name).drop_null())
            if not any(guess.open for guess in self._guesses.values()):
                return False
        return True

    @property
    def other_than_text(self) -> dict[str, str]:
        """`{column: "float" or "truth"}` of the columns that are not text."""
        kinds = {name: guess.kind for name, guess in self._guesses.items()}
        return {name: kind for name, kind in kinds.items() if kind is not None}


class _Guess:
    """The types that a column may still have after the values read so far."""

    def __init__(self, as_list: bool) -> None:
        several = rf"(\{LIST_SEPARATOR}({_FLOAT}|{_INTEGER}))*" if as_list else ""
        self.pattern = f"^({_FLOAT}|{_INTEGER}){several}$"
        self.number = True
        self.with_point = False
        self.truths = list(_TRUTHS)
        self.any = False

    def see(self, values: pa.Array) -> None:
        if not len(values) or not self.open:
            return
        self.any = True
        self.truths = [pair for pair in self.truths if _all(pc.is_in(values, pa.array(pair, pa.binary())))]
        if self.number:
            self.number = _all(pc.match_substring_regex(values, self.pattern))
            self.with_point |= bool(pc.any(pc.match_substring_regex(values, rf"(^|\|){_FLOAT}(\||$)")).as_py())

    @property
    def open(self) -> bool:
        """Whether the column may still be something other than text."""
        return self.number or bool(self.truths)

    @property
    def kind(self) -> str | None:
        if not self.any:
            return None
        if self.truths:
            return "truth"
        return "float" if self.number and self.with_point else None


def _all(flags: pa.Array) -> bool:
    return bool(pc.all(flags).as_py())


def typed(column: pa.Array, kind: str | None, as_list: bool) -> pa.Array:
    """Convert a column of text to its canonical type `kind`, or to lists if `as_list`. Raises pyarrow's
    ArrowInvalid.
    """
    if as_list:
        lists = pc.split_pattern(column, LIST_SEPARATOR)
        values = typed(lists.values, kind, False)
        return pa.ListArray.from_arrays(lists.offsets, values, mask=lists.is_null())
    if kind == "float":
        return column.cast(pa.float64())
    if kind == "truth":
        truthful = pa.array([pair[0] for pair in _TRUTHS], pa.string())
        return pc.if_else(column.is_null(), None, pc.is_in(column, truthful))
    return column
