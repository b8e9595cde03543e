"""One batch of a table's rows: columns as numpy arrays by their use; errors name the row of a bad value."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FeatureError
from features.keys import MAX_ID_CHARACTERS, text_of, too_long
from features.times import LATEST_MS, out_of_bounds, time_problem
from tables import key64
from tables.errors import TableError
from tables.files.table_file import TableFile
from tables.text_numbers import NoNumberError, numbers_of_text
from tables.types import element_type, exact_below, is_list, is_time, objects

_FLOAT_NAMES = {"halffloat": "float16", "float": "float32"}
_TIME_ADVICE = "write such a time as an integer, or as a timestamp in Parquet"
_LABEL_ADVICE = "a label is a number: 0 or 1 for a probability"


@dataclass(frozen=True)
class Batch:
    """`rows`: the requested columns, in canonical types; `first_row` counts the rows of the file before this batch.
    `types` are the types in the file; `places` int64 `[n]` are the positions of a selection's rows in its batch.
    """

    file: TableFile
    role: str
    first_row: int
    rows: pa.RecordBatch
    types: dict[str, pa.DataType]
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def is_untyped(self, column: str) -> bool:
        """Return whether a column is text because its file has no types: a column of a CSV or of a folder's name."""
        return self.file.is_csv or column in self.file.partition

    def is_float64(self, column: str) -> bool:
        """Return whether a column has float64 numbers."""
        return bool(pa.types.is_float64(self.rows.column(column).type))

    def error(self, column: str, message: str, place: int | None = None) -> TableError:
        """Return the error of a column and of the row `place` of this batch."""
        if place is not None and self.places is not None:
            place = int(self.places[place])
        row = None if place is None else self.first_row + place + 1
        return TableError(message, self.file.path, self.role, column, row, self.file.name)

    def selection(self, places: np.ndarray) -> "Batch":
        """Select the rows at `places` int64 `[m]`; errors still name the rows of the table."""
        before = places if self.places is None else self.places[places]
        rows = self.rows.take(pa.array(places, pa.int64()))
        return Batch(self.file, self.role, self.first_row, rows, self.types, before)

    def raw(self, column: str) -> np.ndarray:
        """Return the values `[n]` for `pack_columns`: integers, floats (NaN if missing) or objects (None if missing).

        An integer column with gaps becomes objects, so that 64-bit ids keep every digit.
        """
        values = self.rows.column(column)
        exact = pa.types.is_integer(values.type) and not values.null_count
        if exact or pa.types.is_floating(values.type):
            return np.asarray(values.to_numpy(zero_copy_only=False))
        return objects(values.to_pylist())

    def categories(self, column: str) -> np.ndarray:
        """Raw categorical values `[n]`. Raises TableError for dates and for float32 numbers that have lost digits."""
        self._refuse_dates(column)
        values = self.raw(column)
        if exact_below(self.types[column]) < np.inf:
            self._refuse_inexact(column, values)
        return values

    def keys(self, column: str, keys_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Apply `keys_of` to the column's categories. Raises TableError with the row of the first invalid value."""
        if key64.is_key64(self.rows, column):
            return key64.keys_of(self.rows, column)
        values = self.categories(column)
        try:
            return keys_of(values)
        except FeatureError as error:
            raise self.feature_error(column, error, lambda i: keys_of(values[i : i + 1])) from None

    def texts(self, column: str) -> list[str]:
        """Return the canonical text of every value, `""` if it is missing."""
        values = self.rows.column(column)
        if pa.types.is_integer(values.type) and not is_time(self.types[column]):
            return list(pc.fill_null(values.cast(pa.string()), "").to_pylist())
        raw = self.categories(column).tolist()
        try:
            return [text_of(value, column) for value in raw]
        except FeatureError as error:
            raise self.feature_error(column, error, lambda i: text_of(raw[i], column)) from None

    def ids(self, column: str) -> list[str]:
        """The ids as text. Raises TableError for a missing one, and for one that no request could name."""
        texts = self.texts(column)
        if "" in texts:
            raise self.error(column, f"column '{column}' has a missing id", texts.index(""))
        for place, text in enumerate(texts):
            if len(text) > MAX_ID_CHARACTERS:
                raise self.error(column, f"column '{column}': {too_long(text)}", place)
        return texts

    def numbers(self, column: str) -> np.ndarray:
        """Return numbers `[n]` as integers or floats, NaN if missing; text of a CSV is parsed.

        Raises TableError for text and truth values. It does not check that a number is finite.
        """
        values = self.rows.column(column)
        if pa.types.is_integer(values.type):
            return self.raw(column) if not values.null_count else values.cast(pa.float64(), safe=False).to_numpy(False)
        if pa.types.is_floating(values.type):
            return self.raw(column)
        if values.null_count == len(values):
            return np.full(len(values), np.nan)
        # Whole decimals beyond 64 bits are text in canonical types, which keeps the digits of an id.
        parsed = self.is_untyped(column) or pa.types.is_decimal(element_type(self.types[column]))
        if parsed and pa.types.is_string(values.type):
            return self._parsed(column, values)
        kind = "str" if pa.types.is_string(values.type) else str(values.type)
        place = int(np.flatnonzero(values.is_valid())[0])
        shown = values[place].as_py()
        problem = f"a numeric value is a number or null, not {kind}; it holds {shown!r}, which is no number"
        raise self.error(column, f"column {column}: {problem}", place)

    def lists(self, column: str) -> np.ndarray:
        """Return lists `[n]` of raw values, None if missing; a column of single values is refused."""
        values = self.rows.column(column)
        if not is_list(values.type):
            if values.null_count == len(values):
                return objects([None] * len(values))
            kind = "str" if pa.types.is_string(values.type) else str(values.type)
            message = f"column {column}: a multi-valued feature is a list of strings or integers, not {kind}"
            raise self.error(column, message)
        self._refuse_dates(column)
        out = values.to_pylist()
        if exact_below(element_type(self.types[column])) < np.inf:
            self._refuse_inexact(column, np.array([max(map(abs, filter(None, v or [])), default=0) for v in out]))
        if self.file.is_csv and pa.types.is_string(values.type.value_type):
            for place, value in enumerate(out):
                if value and str(value[0]).startswith("[") and str(value[-1]).endswith("]"):
                    raise self.error(
                        column, f"column {column}: a list is written a|b|c, not {'|'.join(value)!r}", place
                    )
        return objects(out)

    def labels(self, column: str) -> np.ndarray:
        """Return labels as float64 `[n]`: numbers, text that is a number, True and False; NaN if missing."""
        values = self.rows.column(column)
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
            return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
        if pa.types.is_string(values.type):
            return self._parsed(column, values, f"holds {{}}; {_LABEL_ADVICE}")
        return self.numbers(column).astype(np.float64)

    def times(
        self,
        column: str,
        latest_ms: int = LATEST_MS,
        *,
        bounded: bool = True,
        missing: int | None = None,
    ) -> np.ndarray:
        """Return times as int64 milliseconds `[n]`; a missing one becomes `missing`, or is refused if that is None.

        Raises TableError for fractions, float32 and, if `bounded`, times outside the bounds of features/times.py.
        """
        # Refuse types that cannot hold milliseconds.
        values = self.rows.column(column)
        gaps = np.asarray(values.is_null())
        if pa.types.is_float32(values.type) and len(values) > values.null_count:
            message = f"column '{column}' is float32, which does not hold milliseconds; write int64 or float64"
            raise self.error(column, message)
        if not pa.types.is_integer(values.type):
            numbers = self._time_numbers(column)
            gaps = np.isnan(numbers)
            whole = np.where(gaps, 0, numbers)
            self._refuse(
                column,
                (np.floor(whole) != whole) | (np.abs(whole) >= 2.0**53),
                lambda i: f"must hold whole milliseconds since 1970, not {float(whole[i])!r}",
            )
            times = whole.astype(np.int64)
        else:
            if pa.types.is_uint64(values.type):
                raise self.error(column, f"column '{column}' must hold whole milliseconds since 1970 (int64)")
            times = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
        # Check for missing times, then for seconds or microseconds given by mistake.
        if missing is None:
            self._refuse(column, gaps, lambda _: f"has no time in {gaps.sum():,} of {len(gaps):,} rows")
        else:
            times = np.where(gaps, missing, times)
        if bounded:
            outside = out_of_bounds(times, latest_ms) & ~gaps
            self._refuse(column, outside, lambda i: f"holds {time_problem(int(times[i]), latest_ms)}")
        return np.asarray(times, dtype=np.int64)

    def _time_numbers(self, column: str) -> np.ndarray:
        values = self.rows.column(column)
        if pa.types.is_floating(values.type):
            return np.asarray(values.to_numpy(zero_copy_only=False))
        if pa.types.is_string(values.type):
            return self._parsed(column, values, f"must hold whole milliseconds since 1970, not {{}}; {_TIME_ADVICE}")
        if values.null_count == len(values):
            return np.full(len(values), np.nan)
        raise self.error(column, f"column '{column}' must hold whole milliseconds since 1970, not {values.type}")

    def _parsed(self, column: str, values: pa.Array, message: str = "holds {}, which is no number") -> np.ndarray:
        """Parse text as float64 `[n]`, NaN if missing. Raises TableError with the row of a text that is no number."""
        try:
            return numbers_of_text(values)
        except NoNumberError as error:
            problem = message.format(repr(error.text)) + error.advice
            raise self.error(column, f"column '{column}' {problem}", error.place) from None

    def _refuse_dates(self, column: str) -> None:
        kind = self.types[column]
        if is_time(element_type(kind)):
            raise self.error(column, f"column {column}: a category is text or an integer, not the type {kind}")

    def _refuse_inexact(self, column: str, values: np.ndarray) -> None:
        """Raise TableError for the first of the floats that no longer holds every integer."""
        kind = element_type(self.types[column])
        advice = f"is a {_FLOAT_NAMES[str(kind)]} that no longer holds every digit; write integers or text"
        bad = np.abs(values.astype(np.float64)) >= exact_below(kind)
        self._refuse(column, bad, lambda i: f"{float(values[i])!r} {advice}")

    def _refuse(self, column: str, bad: np.ndarray, message: Callable[[int], str]) -> None:
        """Raise the error of the first row in which `bad` is True."""
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            raise self.error(column, f"column '{column}' {message(place)}", place)

    def feature_error(self, column: str, error: FeatureError, again: Callable[[int], object]) -> TableError:
        """Convert an error of the schema to a TableError; `again` reads one row again, to find the row at fault."""
        for place in range(len(self)):
            try:
                again(place)
            except FeatureError:
                return self.error(column, f"column {column}: {error.message}", place)
        return self.error(column, f"column {column}: {error.message}")
