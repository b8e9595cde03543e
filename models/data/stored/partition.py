"""The encoded rows of one file: flat arrays in a folder that is written whole, and their description."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from models.data.arrays import ArrayFile, read_array

DESCRIPTION = "partition.json"


@dataclass(frozen=True)
class Ids:
    """The distinct ids of a file: keys int64 `[n]`, ascending, and the key of each as a feature (0: it is none)."""

    keys: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class EncodedFile:
    """`batches` are the rows of each batch that was read: ids without a row get one batch by batch.

    `rows` is their sum.
    """

    folder: Path
    batches: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.batches)

    def array(self, name: str, dtype: DTypeLike, width: int | None = None) -> np.ndarray:
        """The memory map of an array `[rows]` or `[rows, width]`; of a type without bytes an empty array."""
        kind = np.dtype(dtype)
        if not kind.itemsize:
            return np.zeros(self.rows, dtype=kind)
        return read_array(self.folder / name, kind, width, self.rows)

    def ids(self, entity: str) -> Ids:
        """The distinct ids of users or items."""
        keys = read_array(self.folder / f"{entity}_ids", np.int64)
        return Ids(keys, read_array(self.folder / f"{entity}_id_features", np.int64))


class PartitionWriter:
    """Appends batches of named arrays to a folder; close it before reading."""

    def __init__(self, folder: Path, dtypes: Mapping[str, DTypeLike]) -> None:
        self._files = {name: ArrayFile(folder / name, dtype) for name, dtype in dtypes.items()}
        self.batches: list[int] = []

    def add(self, rows: int, columns: Mapping[str, np.ndarray]) -> None:
        for name, values in columns.items():
            self._files[name].append(values)
        self.batches.append(rows)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def open_partition(folder: Path) -> EncodedFile:
    """Open a finished partition."""
    described: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    return EncodedFile(folder, tuple(described["batches"]))
