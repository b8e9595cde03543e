"""Hashes large files once per host: what one process has hashed, the others take over while the file is unchanged.

A file is known by its device, inode, size and times. The time of change (`ctime`) is set by the kernel at every write
and cannot be set by a program, so a file that was written to has another identity. Records are in memory, and in
the private run-time folder that the workers of one start share.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from service.files import exclusive_lock

log = logging.getLogger("funnelrank.bundle")
_HASHED_AT_ONCE = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
# The kernel's clock of file times advances in steps of up to 10 ms. Within one step a second write leaves no trace.
_CLOCK_STEP_NS = 50_000_000
_TURN_SECONDS = 600.0
_MOST_READS = 5


class FileIdentity(NamedTuple):
    """What the kernel says about an open file; it differs after every write."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def of_content(self) -> tuple[int, ...]:
        """What every honest write changes. Another name or mode changes the time of change alone."""
        return self[: self._fields.index("changed_ns")]


def identity_of(descriptor: int) -> FileIdentity:
    stat = os.fstat(descriptor)
    return FileIdentity(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True)
class HashRecords:
    """The hashes of files that this host has read. Without a folder, a process knows only its own.

    A folder that is full, missing or locked costs a second reading of a file, and never a bundle.
    """

    folder: Path | None = None
    known: dict[FileIdentity, str] = field(default_factory=dict, repr=False)

    def sha256_of(self, descriptor: int) -> str:
        """Return the SHA-256 of an open file, read at most once per host as long as nobody writes to it.

        It is read again if it gets another name or mode meanwhile, as by a backup or by `declare`. Raises OSError, also
        if the file is written to while it is read.
        """
        identity = identity_of(descriptor)
        digest = self._recorded(identity)
        if digest is not None:
            return digest
        with self._turn():
            for _ in range(_MOST_READS):
                # Another process may have hashed it while this one waited.
                digest = self._recorded(identity) or _hashed(descriptor, identity)
                before = identity
                identity = identity_of(descriptor)
                if identity == before:
                    self._record(identity, digest)
                    return digest
                if identity.of_content != before.of_content:
                    break
        raise OSError(errno.EBUSY, "it was changed while it was read")

    def _recorded(self, identity: FileIdentity) -> str | None:
        digest = self.known.get(identity)
        if digest is None and self.folder is not None:
            try:
                recorded = self._path(self.folder, identity).read_text("ascii")
            except (OSError, ValueError):
                return None
            if _DIGEST.fullmatch(recorded) is None:
                return None
            digest = recorded
            self.known[identity] = digest
        return digest

    def _record(self, identity: FileIdentity, digest: str) -> None:
        self.known[identity] = digest
        if self.folder is None:
            return
        path = self._path(self.folder, identity)
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            unfinished.write_text(digest, "ascii")
            unfinished.replace(path)
        except OSError as error:
            log.warning("the hash of a large file was not recorded, so each worker reads the file: %s", error)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one process of the host hash at a time, so that the others find its record."""
        if self.folder is None:
            yield
            return
        with ExitStack() as stack:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(exclusive_lock(self.folder / "hashes.lock", _TURN_SECONDS))
            except OSError as error:
                log.warning("a large file is read without regard to other workers: %s", error)
            yield

    @staticmethod
    def _path(folder: Path, identity: FileIdentity) -> Path:
        return folder / f"hash-{'-'.join(map(str, identity))}.sha256"


def _hashed(descriptor: int, identity: FileIdentity) -> str:
    """Read and hash a file that has this identity. Raises OSError."""
    time.sleep(max(0, min(_CLOCK_STEP_NS, identity.changed_ns + _CLOCK_STEP_NS - time.time_ns())) / 1e9)
    digest = sha256()
    place = 0
    # One buffer for all parts: to map and unmap memory for each would make other threads wait for their pages.
    buffer = memoryview(bytearray(_HASHED_AT_ONCE))
    while read := os.preadv(descriptor, [buffer], place):
        digest.update(buffer[:read])
        place += read
    return digest.hexdigest()
