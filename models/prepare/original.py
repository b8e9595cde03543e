"""Reads a data set's original files; errors of pyarrow, pandas or gzip become TableErrors."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from tables import TableError, open_table
from tables.errors import unreadable


def read_original(path: Path, needed: Collection[str]) -> pd.DataFrame:
    """Read a whole Parquet file in its own types. Raises TableError, also if a column of `needed` is missing."""
    frame: pd.DataFrame = open_table(path, "original").as_stored(needed).to_pandas()
    return frame


@contextmanager
def as_table_error(path: Path) -> Iterator[None]:
    """Convert errors of pandas about an original file to TableError; FileNotFoundError stays as it is."""
    try:
        yield
    except (FileNotFoundError, TableError):
        raise
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise unreadable(error, path, "original") from None
