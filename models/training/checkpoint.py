"""Writes the files of a run, each whole or not at all: the resumable state, the best weights, JSON documents."""

import errno
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from features.files.writing import replacing, write_whole

RESUME_FILE = "resume.pt"
WEIGHTS_FILE = "checkpoint.pt"
OPTIMISER_FILE = "optimiser.pt"
FORMAT = 1


def save_whole(content: dict[str, Any], path: Path) -> None:
    """Save plain containers and tensors with torch.save; the file is synced and renamed into place.

    Raises OSError, also where torch says that the disk is full in words of its own archive (a RuntimeError).
    """
    with replacing(path) as unfinished:
        try:
            torch.save(content, unfinished)
        except RuntimeError as error:
            raise OSError(errno.EIO, "cannot be written; is the disk full?", str(path)) from error


def write_json(content: Any, path: Path) -> None:
    """Write plain data as JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def load_whole(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Load what `save_whole` saved. `mapped` tensors lie in the file's pages until they are written to."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return content


def save_weights(weights: dict[str, torch.Tensor], cross_values: int, step: int, path: Path) -> None:
    """Save the product of a run: weights by name, and the arguments of `build_model` besides recipe and encoding."""
    save_whole({"format": FORMAT, "weights": weights, "cross_values": cross_values, "step": step}, path)


def save_optimisers(members: list[dict[str, Any]], path: Path) -> None:
    """Save the optimiser's state of every member at its best weights, for a run that continues this one."""
    save_whole({"format": FORMAT, "members": members}, path)


def load_optimisers(path: Path) -> list[dict[str, Any]]:
    """Load the optimiser's state of every member."""
    members: list[dict[str, Any]] = load_whole(path)["members"]
    return members


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove what a process left that was killed while it wrote a file of these names; the file itself is whole."""
    for name in names:
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


class CheckpointSpacing:
    """Keeps checkpoints of large tables from taking more than a tenth of the time of a run.

    A checkpoint writes the whole state, which is gigabytes for tens of millions of rows. One that took longer than
    `FREE_S` is followed by the next only after nine times as long.
    """

    FREE_S = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.next_at = 0.0

    def allows(self) -> bool:
        """Whether a checkpoint between evaluations may be written now."""
        return self.clock() >= self.next_at

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure the checkpoint that is written inside."""
        began = self.clock()
        yield
        ended = self.clock()
        self.next_at = ended + 9 * (ended - began) if ended - began > self.FREE_S else 0.0
