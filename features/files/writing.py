"""Writes a file whole or not at all, and names the place where the disk is full.

It is in this package because both halves of the project write files, and everybody may import it.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, and the limit of a file's size


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Name `path` in the OSError of a full disk: a failed write itself does not know its file."""
    try:
        yield
    except OSError as error:
        # An error with two names is that of a copy, which names its source first.
        if error.errno not in _FULL or (error.filename is not None and error.filename2 is None):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` at the end of the block.

    Readers see the old content or the new one, even after a power cut. If the block or the disk fails (OSError), the
    old file stays and no temporary file is left.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        with naming_full_disk(path):
            yield temporary
            _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file. Raises OSError; the old file then stays."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
