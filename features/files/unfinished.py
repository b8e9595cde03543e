"""Fills a folder aside until it is complete, and removes the folders that killed processes left unfinished.

It is in this package because both halves of the project fill folders, and everybody may import it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# The process that fills a folder holds the lock of this file in it, and the kernel frees the lock of a killed one.
OWNER = ".owner"


@contextmanager
def unfinished_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `parent`, named by the prefix and a random end. It is removed at the end of the block,
    unless `finish` has given it another name. Raises OSError if it cannot be created.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _lock(folder, stack)
        yield folder


def finish(unfinished: Path, folder: Path) -> None:
    """Give a complete folder its name. Raises OSError, also if a folder of that name has files."""
    # Until the block ends, the lock is held, although its file has no name any more.
    (unfinished / OWNER).unlink(missing_ok=True)
    unfinished.rename(folder)


def remove_abandoned(parent: Path, pattern: str) -> None:
    """Remove the folders in `parent` that `unfinished_folder` created, and whose process has ended without doing so.

    `pattern`: of their names, as for `glob`. A folder whose lock is held stays, on whatever host its process is; so
    does one that has no lock, because its file system knows none.
    """
    for owner in parent.glob(f"{pattern}/{OWNER}"):
        try:
            # For writing: some network file systems lock no file that is open for reading alone.
            descriptor = os.open(owner, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # of another user, or removed meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(owner.parent, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(folder: Path, stack: ExitStack) -> None:
    """Hold the lock of the folder until the stack is closed, if its file system knows locks."""
    temporary = folder / f"{OWNER}.tmp"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        temporary.unlink()
        return
    # The file gets its name with its lock: a file of that name without a lock is that of an ended process.
    temporary.rename(folder / OWNER)
