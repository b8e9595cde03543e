"""Reads a data set's original files; what pyarrow, pandas or gzip raise becomes a TableError."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from tables import TableError, open_table
from tables.errors import unreadable


def read_original(path: Path, needed: Collection[str]) -> pd.DataFrame:
    """A whole Parquet file in its own types. Raises TableError, also for a column of `needed` that is not there."""
    frame: pd.DataFrame = open_table(path, "original").as_stored(needed).to_pandas()
    return frame


@contextmanager
def as_table_error(path: Path) -> Iterator[None]:
    """Raise TableError for errors of pandas that reads an original file; FileNotFoundError stays as it is."""
    try:
        yield
    except (FileNotFoundError, TableError):
        raise
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise unreadable(error, path, "original") from None
