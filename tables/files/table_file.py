"""One file of a table, on a disk or in an object store: its place, its columns and its partition."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tables.files import objects

State = tuple[int, int | str]  # the size in bytes, and the time of the last change in nanoseconds or an object's ETag


@dataclass(frozen=True)
class TableFile:
    """`root` is a folder or the URI of one, and `name` the file's path below it.

    `partition`: the columns that its folders name (`date=0430/`), in their order; None is a missing value. `columns`
    are those of the file and its partition together, `types` those of the file. `rows` is None for a CSV. `state`
    changes with the content.
    """

    root: str
    name: str
    state: State
    partition: Mapping[str, str | None] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    rows: int | None = None

    @property
    def path(self) -> Path:
        """The place as a path, for messages; of a file on a disk also for reading."""
        return Path(self.root) / self.name

    @property
    def is_csv(self) -> bool:
        return self.name.endswith(".csv")

    @property
    def is_object(self) -> bool:
        """Whether the file is in an object store."""
        return objects.is_uri(self.root)

    def open(self) -> BinaryIO:
        """Open the file for reading bytes. Raises OSError."""
        return objects.open_object(self.root, self.name) if self.is_object else self.path.open("rb")

    @contextmanager
    def source(self) -> Iterator[Path | BinaryIO]:
        """What pyarrow reads: the path, or an open object."""
        if not self.is_object:
            yield self.path
            return
        with self.open() as file:
            yield file

    def current_state(self) -> State:
        """The state of the file now. Raises OSError."""
        if self.is_object:
            return objects.state_of(self.root, self.name)
        return state_on_disk(self.path)


def state_on_disk(path: Path) -> State:
    """The size in bytes and the time of the last change in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
