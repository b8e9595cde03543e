"""The one reader of Parquet and CSV: training, the load, the load test and the reports read tables through it."""

from features.table_names import TableNames
from tables.batch import Batch
from tables.errors import TableError
from tables.opening import find_table, open_table, place_in
from tables.packing import packed_rows
from tables.table import Table

__all__ = ["Batch", "Table", "TableError", "TableNames", "find_table", "open_table", "packed_rows", "place_in"]
