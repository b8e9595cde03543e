"""Owns files of the registry that every worker follows: replaced whole, by one writer at a time, the last good text kept beside them."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("funnelrank.document")
LOCK_FILE = ".rollout.lock"
Signature = tuple[int, int, int]


def now() -> str:
    """The time as documents say it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def signature(path: Path) -> Signature | None:
    """Changes whenever the file was replaced; None where it is absent. Costs one stat."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def last_good(path: Path) -> Path:
    """Where the text that was last written whole is kept: `rollout.json` -> `.rollout.json.last`."""
    return path.parent / f".{path.name}.last"


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """One writer of this registry's documents at a time, over all processes of this host and of those that share the file system's locks."""
    with (folder / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_document(path: Path, content: bytes) -> None:
    """Write a document and then its copy. Raises OSError where the document itself could not be written; the old one then stands."""
    replace(path, content)
    try:
        replace(last_good(path), content)
    except OSError as error:
        log.warning("the copy of %s could not be written: %s", path, error.strerror)


def replace(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, also after a power cut."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
