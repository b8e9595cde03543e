"""The spool of a log: the stream files of each worker, which are closed by size and time and limited in bytes."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from service.exposures.folder import SHIPPED, SPOOL, SUFFIX, VERIFIED
from service.exposures.stream import StreamFile

log = logging.getLogger("funnelrank.exposures")
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 2.0
_ROLL_BYTES = 64 << 20
BatchOf = Callable[[Sequence[Any]], pa.RecordBatch]


@dataclass(frozen=True)
class SpoolLimits:
    """The size and age at which a file is closed, and the limit for closed files that wait for the compaction."""

    roll_seconds: float = 60.0
    max_bytes: int = 4 << 30


class Spool:
    """The sink of one worker: one open stream per kind of record in `folder/spool`."""

    def __init__(self, folder: Path, batches: Mapping[str, BatchOf], limits: SpoolLimits) -> None:
        self._folder = folder / SPOOL
        self._batches = batches
        self._limits = limits
        self._worker = uuid4().hex[:12]
        self._open: dict[str, tuple[StreamFile, float]] = {}
        self._failed_at = -_RETRY_SECONDS
        self._looked_at = -_LOOK_SECONDS
        self.skews: dict[str, int] = {}  # differing values of the last verification, by feature or task
        self.shipped: dict[str, int] = {}  # the counts of the shipper, if there is one
        self.removed = 0  # rolled files that were removed before they were compacted or sent

    def write(self, kind: str, records: list[Any]) -> None:
        """Append the records as one batch. Raises OSError, or the error of packing the records."""
        batch = self._batches[kind](records)
        stream = self._stream(kind, batch.schema)
        try:
            stream.append(batch)
        except OSError:
            # If the disk has room again or the folder exists again, another file can be written.
            self._failed_at = time.monotonic()
            self._end(kind)
            raise

    def tend(self) -> None:
        """Close old or large files, and remove the oldest closed ones beyond the limit."""
        now = time.monotonic()
        due = [
            kind
            for kind, (stream, since) in self._open.items()
            if now - since >= self._limits.roll_seconds or stream.size >= _ROLL_BYTES
        ]
        for kind in due:
            self._end(kind)
        if due:
            self._bound()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self.skews = _counts(self._folder.parent / VERIFIED, "skews")
            self.shipped = _counts(self._folder.parent / SHIPPED, "counts")

    def close(self) -> None:
        for kind in list(self._open):
            self._end(kind)

    def _stream(self, kind: str, schema: pa.Schema) -> StreamFile:
        if kind not in self._open:
            # A full disk usually stays full for a while, so not every batch tries again.
            if time.monotonic() - self._failed_at < _RETRY_SECONDS:
                raise OSError(f"{self._folder} could not be written to a moment ago")
            try:
                self._folder.mkdir(exist_ok=True)
                name = f"{kind}-{time.time_ns() // 1_000_000}-{self._worker}{SUFFIX}"
                self._open[kind] = (StreamFile(self._folder / name, schema), time.monotonic())
            except OSError:
                self._failed_at = time.monotonic()
                raise
        return self._open[kind][0]

    def _end(self, kind: str) -> None:
        """Close a stream; if that fails, it keeps its open name, and the compaction reads its records."""
        stream, _ = self._open.pop(kind)
        try:
            stream.finish()
        except OSError as error:
            log.error("%s was not finished: %s", stream.path, error)

    def _bound(self) -> None:
        """Remove the oldest closed files if all together are too large. Other workers may remove them as well."""
        rolled = sorted(self._folder.glob(f"*{SUFFIX}"), key=_logged_at)
        sizes = {path: _size(path) for path in rolled}
        excess = sum(sizes.values()) - self._limits.max_bytes
        for path, size in sizes.items():
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            excess -= size
            self.removed += 1
            log.error(
                "%s was removed before it was compacted or sent: the log may hold %d bytes",
                path,
                self._limits.max_bytes,
            )


def _counts(path: Path, name: str) -> dict[str, int]:
    """The counts that another program has written under a name; nothing if there is no file, or it is broken."""
    try:
        counts = json.loads(path.read_bytes())[name]
        return {str(name): int(count) for name, count in counts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _logged_at(path: Path) -> str:
    """The time in a file's name, after its kind."""
    return path.name.partition("-")[2]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
