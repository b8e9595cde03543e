"""Writes one Arrow IPC stream to a file, record batch by record batch.

A stream without its end is readable up to the last complete batch; a Parquet file is not readable after a crash,
because it lacks its footer. The file is locked while it is open, so that readers know whether its writer is alive.
"""

import contextlib
import fcntl
import os
from pathlib import Path

import pyarrow as pa

OPEN_SUFFIX = ".open"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class StreamGoneError(OSError):
    """The file was removed while it was written to."""


class StreamFile:
    """A stream that is written as `<path>.open`, and renamed to `path` when it is complete."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._open_path = path.with_name(path.name + OPEN_SUFFIX)
        self._file = os.open(self._open_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        self.size = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)  # a reader that looks whether it is locked holds it for microseconds
            self._append(schema.serialize())
        except BaseException:
            self.abandon()
            raise

    def append(self, batch: pa.RecordBatch) -> None:
        """Add a batch. Raises OSError, and leaves the stream as it was, if it cannot be written in full."""
        if os.fstat(self._file).st_nlink == 0:
            raise StreamGoneError(f"{self._open_path} was removed")
        self._append(batch.serialize())

    def finish(self) -> None:
        """End the stream and give the file its name."""
        try:
            self._append(_END_OF_STREAM)
            os.fsync(self._file)
            os.rename(self._open_path, self.path)
        finally:
            os.close(self._file)

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(OSError):
            os.close(self._file)

    def _append(self, data: pa.Buffer | bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            # An incomplete batch would hide all batches after it.
            os.ftruncate(self._file, self.size)
            os.lseek(self._file, self.size, os.SEEK_SET)
            raise
        self.size += len(memoryview(data))
