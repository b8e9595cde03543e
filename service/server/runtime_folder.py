"""Creates and removes the run-time folder of one start: a private folder, in memory if possible."""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("funnelrank.serve")
_PREFIX = "funnelrank-metrics-"
_OWNER = "owner"  # locked by the process that created the folder, as long as it lives


@contextmanager
def runtime_folder(parents: Sequence[Path]) -> Iterator[Path | None]:
    """Create a folder in the first of `parents` that permits it; return None, and write one log line, if none does."""
    problem = ""
    for parent in parents:
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_abandoned(parent)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError as error:
            problem = f"{parent}: {error.strerror}"
            continue
        owner = _lock(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if owner is not None:
                os.close(owner)
        return
    log.error("no run-time folder can be created, so every worker has metrics of its own: %s", problem)
    yield None


def _lock(folder: Path) -> int | None:
    """Return the descriptor that holds the lock of the folder; None if no file can be created in it."""
    temporary = folder / f"{_OWNER}.tmp"
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        temporary.replace(folder / _OWNER)
    except OSError:
        return None
    return descriptor


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of starts that were killed: nobody holds their lock."""
    for owner in parent.glob(f"{_PREFIX}*/{_OWNER}"):
        try:
            descriptor = os.open(owner, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # of another user
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(owner.parent, ignore_errors=True)
        finally:
            os.close(descriptor)
