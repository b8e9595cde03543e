"""The error of a table: file, table, column, row, and the problem."""

from pathlib import Path


class TableError(ValueError):
    """A table that cannot be read, or a value that does not fit.

    `file` is its path, `table` its role (`users`, `items`, ...), `column` and `row` say where, if known; the first row
    below a CSV's head is row 1. `message` names the column; the text of the error adds the file and the row. `name` is
    the file's name where a table has several files, with its folders below the table.
    """

    def __init__(
        self,
        message: str,
        file: Path,
        table: str,
        column: str | None = None,
        row: int | None = None,
        name: str | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.table = table
        self.column = column
        self.row = row
        super().__init__(f"{name or file.name} ({table}): {self.detail}")

    def __reduce__(self) -> tuple[type["TableError"], tuple[object, ...]]:
        """An error crosses from one process to another."""
        name = str(self).partition(f" ({self.table}): ")[0]
        return TableError, (self.message, self.file, self.table, self.column, self.row, name)

    @property
    def detail(self) -> str:
        """The message with its row, without the file."""
        return self.message if self.row is None else f"{self.message} (row {self.row:,})"


def unreadable(
    error: Exception,
    file: Path,
    table: str,
    column: str | None = None,
    row: int | None = None,
    name: str | None = None,
) -> TableError:
    """Convert an error of a library to a TableError."""
    return TableError(f"cannot be read: {one_line(error)}", file, table, column, row, name)


def one_line(error: Exception) -> str:
    """Return the text of a library's error as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
