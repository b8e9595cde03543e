"""Sends the closed files of a spool to a target, and removes each after it was sent."""

import contextlib
import fcntl
import json
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from features.files.writing import write_whole
from service.exposures.folder import FEATURE_SCHEMAS, SHIPPED, SPOOL, STREAM_NAME, has_writer
from service.exposures.targets.target import LogTarget, LogTargetError
from service.files import open_regular

log = logging.getLogger("funnelrank.exposures")
LOOK_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass
class ShippedCounts:
    """Counts since the shipper's start, and what waits: the metrics of the service show them."""

    sent_files: int = 0
    failed_attempts: int = 0
    refused_records: int = 0
    waiting_files: int = 0
    waiting_bytes: int = 0


class Shipper:
    """Sends files of the log in `folder` to a target, the oldest first. Call `step` again after the pause that it
    returns.

    Files of a killed worker are sent too, as they are. A file that cannot be read, or that the target refuses, is tried
    again after the others. One shipper of a folder works at a time; others wait.
    """

    def __init__(self, folder: Path, target: LogTarget) -> None:
        self._folder = folder
        self._target = target
        self._failures = 0
        self._failed: dict[str, int] = {}  # how often each file was refused
        self._reported = False
        self._written = b""
        self.counts = ShippedCounts()
        self._lock = (folder / ".ship.lock").open("w")

    def close(self) -> None:
        self._lock.close()

    def step(self) -> float:
        """Send every file that is ready, up to the first that fails; return the seconds to the next step."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return LOOK_SECONDS
        pause = LOOK_SECONDS
        sent_before = self.counts.sent_files
        try:
            self._write_counts()  # before as well, because a target that does not answer takes its time
            self._send_all()
            # A step without files says nothing about the target.
            if self.counts.sent_files > sent_before:
                self._failures = 0
                self._reported = False
        except (LogTargetError, OSError) as error:
            # A file alone that is refused slows nothing down.
            self._failures = self._failures + 1 if self.counts.sent_files == sent_before else 1
            self.counts.failed_attempts += 1
            self._report(str(error))
            pause = min(_LONGEST_PAUSE_SECONDS, LOOK_SECONDS * 2 ** min(self._failures, 10))
            pause *= random.uniform(0.5, 1.0)  # nosec B311 # machines shall not try again at the same moment
        with contextlib.suppress(OSError):
            self._write_counts()
        return pause

    def _send_all(self) -> None:
        paths = list(ready_files(self._folder))
        self._failed = {path.name: self._failed.get(path.name, 0) for path in paths}
        for path in sorted(paths, key=lambda path: self._failed[path.name]):
            schemas = sorted((self._folder / FEATURE_SCHEMAS).glob("*.json"))
            for schema in schemas:
                self._target.send_schema(schema)
            try:
                os.close(open_regular(path))
                self.counts.refused_records += self._target.send(path)
            except (LogTargetError, OSError):
                # The spool removes its oldest files beyond its limit, also one that is being sent.
                if path.exists():
                    self._failed[path.name] += 1
                    raise
                continue
            path.unlink(missing_ok=True)
            self.counts.sent_files += 1

    def _report(self, problem: str) -> None:
        """Write one line until all files are sent again: the texts of attempts differ in times and names."""
        if not self._reported:
            log.error("files of the exposure log wait, because the target refuses them: %s", problem)
        self._reported = True

    def _write_counts(self) -> None:
        sizes = [_size(path) for path in ready_files(self._folder)]
        self.counts.waiting_files = len(sizes)
        self.counts.waiting_bytes = sum(sizes)
        content = json.dumps({"counts": asdict(self.counts)}).encode()
        # An idle shipper wakes no disk.
        if content == self._written and (self._folder / SHIPPED).exists():
            return
        # A full disk takes the counts away for a while, and nothing else.
        with contextlib.suppress(OSError):
            write_whole(self._folder / SHIPPED, content)
            self._written = content


def ready_files(folder: Path) -> Iterator[Path]:
    """The files of the spool that no worker writes to any more, oldest first."""
    names = [path for path in (folder / SPOOL).iterdir() if STREAM_NAME.fullmatch(path.name)]
    for path in sorted(names, key=lambda path: path.name.partition("-")[2]):
        if path.exists() and not _is_written(path):
            yield path


def _is_written(path: Path) -> bool:
    """Whether a worker writes to a file. One that cannot be opened is none of a living worker."""
    try:
        return has_writer(path)
    except OSError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
