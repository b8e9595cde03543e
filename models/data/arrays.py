"""Arrays on disk that are written piece by piece and read as memory maps."""

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike


class ArrayFile:
    """Appends arrays `[n]` or `[n, width]` of one dtype to a file; close it before reading."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self._file = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())

    def flush(self) -> None:
        """Write what was appended, so that the file can be read."""
        self._file.flush()

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()


def read_array(path: Path, dtype: DTypeLike, width: int | None = None, rows: int | None = None) -> np.ndarray:
    """Open the file as a read-only memory map `[n]`, or `[n, width]`; `rows` is needed if the width is 0."""
    if width == 0:
        return np.zeros((rows or 0, 0), dtype=dtype)
    if path.stat().st_size == 0:
        return np.zeros((0,) if width is None else (0, width), dtype=dtype)
    flat = np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # plain arrays index faster than the memmap class
    return flat if width is None else flat.reshape(-1, width)


def new_array(path: Path, dtype: DTypeLike, n: int) -> np.ndarray:
    """Create a writable memory map `[n]` of zeros."""
    if n == 0:
        path.touch()
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="w+", shape=(n,))
