"""Shares the history of the metrics among the workers of a host: one of them samples, and all of them read its file."""

import fcntl
import logging
import os
import time
from pathlib import Path

from service.metrics.families import Families
from service.metrics.history import STEP_SECONDS, History, loads

log = logging.getLogger("funnelrank.metrics")
_FILE = "history"
_LOCK = "history.lock"


class SharedHistory:
    """The history in a run-time folder; without a folder, that of this process. A fault costs the history alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._own = History()
        self._looked = -STEP_SECONDS
        self._failing = False

    def is_due(self) -> bool:
        """Return whether a sample is missing. Looks at the file twice per step."""
        now = time.monotonic()
        if self._folder is None:
            return not self._own.times or now - self._own.times[-1] >= STEP_SECONDS
        if now - self._looked < STEP_SECONDS / 2:
            return False
        self._looked = now
        return self._is_old(self._folder / _FILE)

    def sample(self, families: Families) -> None:
        """Add a sample, unless another worker has just done so."""
        if self._folder is None:
            self._own.add(time.monotonic(), families)
            return
        try:
            self._sample(self._folder, families)
        except OSError as error:
            if not self._failing:
                log.warning("the history of the metrics cannot be written; /stats has shorter windows: %s", error)
            self._failing = True
            return
        self._failing = False

    def read(self) -> History:
        """The history, which is empty if it cannot be read."""
        if self._folder is None:
            return self._own
        try:
            return loads((self._folder / _FILE).read_bytes())
        except (OSError, ValueError, KeyError, TypeError):
            return History()

    def _sample(self, folder: Path, families: Families) -> None:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = folder / _FILE
            if self._is_old(path):
                history = self.read()
                history.add(time.monotonic(), families)
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(history.dumps())
                temporary.replace(path)
        except BlockingIOError:
            # Another worker samples at this moment.
            return
        finally:
            os.close(descriptor)

    @staticmethod
    def _is_old(path: Path) -> bool:
        """Return whether a file is missing or older than a step. A clock that was set back counts as old."""
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:
            return True
        return not 0 <= age < STEP_SECONDS
