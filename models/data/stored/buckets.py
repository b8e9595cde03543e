"""Sorts rows into files by a number, so that what belongs together fits into memory at once."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike

from models.data.arrays import ArrayFile

MOST_BUCKETS = 128  # files that are open at once


class Buckets:
    """Appends rows to one of `count` files; in a file they keep their order. The files are removed in the end."""

    def __init__(self, path: Path, dtype: DTypeLike, count: int) -> None:
        self._paths = [path.with_name(f"{path.name}.{i}") for i in range(count)]
        self._dtype = np.dtype(dtype)
        self._files = [ArrayFile(place, dtype) for place in self._paths]

    def append(self, rows: np.ndarray, bucket: np.ndarray) -> None:
        """Append rows `[n]` to their buckets int `[n]`."""
        if len(self._files) == 1:
            self._files[0].append(rows)
            return
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(len(self._files) + 1))
        for file, first, last in zip(self._files, bounds[:-1], bounds[1:], strict=True):
            if first < last:
                file.append(rows[order[first:last]])

    def read(self, bucket: int) -> np.ndarray:
        """The rows of one bucket, in memory."""
        self._files[bucket].flush()
        return np.fromfile(self._paths[bucket], dtype=self._dtype)

    def pieces(self, rows: int) -> Iterator[Iterator[np.ndarray]]:
        """The rows of each bucket, at most `rows` at a time."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            yield _pieces(path, self._dtype, rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.read(bucket) for bucket in range(len(self._files)))

    def __enter__(self) -> "Buckets":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            path.unlink()


def _pieces(path: Path, dtype: np.dtype, rows: int) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(piece := np.fromfile(file, dtype=dtype, count=rows)):
            yield piece


def bucket_count(rows: int, bytes_per_row: int, memory_bytes: int) -> int:
    """How many buckets make each of them fit: of evenly spread rows, with half as much again for those that are not."""
    return min(max(1, -(-rows * bytes_per_row * 3 // (2 * memory_bytes))), MOST_BUCKETS)


def bucket_threads(rows: int, bytes_per_row: int, memory_bytes: int, threads: int) -> tuple[int, int]:
    """How many buckets, and how many threads may have one of them in memory each."""
    count = min(bucket_count(rows, bytes_per_row, memory_bytes) * threads, MOST_BUCKETS)
    of_bucket = max(1, rows * bytes_per_row * 3 // (2 * count))
    return count, min(threads, count, max(1, memory_bytes // of_bucket))
