"""Reads and writes the record of one worker: a preallocated file with two slots, locked as long as its worker lives.

A write fills the slot with the older record, so a worker that is killed while it writes leaves a whole record. The
space is allocated when the file is created, so a disk that becomes full later stops no write. The file is not
memory-mapped: a full disk is an OSError, not a signal.
"""

import fcntl
import os
import struct
import zlib
from pathlib import Path

_SLOT_HEADER = struct.Struct("<QII")  # sequence number, length and CRC-32 of the content
_SMALLEST_SLOT = 1 << 16


class RecordFile:
    """The record of this process. Every method may raise OSError."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._sequence = 0
        self._slot_bytes = max(_SMALLEST_SLOT, 2 * len(content))
        temporary = path.with_suffix(".tmp")
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Lock the file before it gets its name: a file without a lock counts as the record of an ended worker.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(self._descriptor, 0, 2 * self._slot_bytes)
            self.write(content)
            temporary.replace(path)
        except OSError:
            os.close(self._descriptor)
            temporary.unlink(missing_ok=True)
            raise

    def takes(self, content: bytes) -> bool:
        """Return whether the file is still in its folder and has room for `content`."""
        return os.fstat(self._descriptor).st_nlink > 0 and _SLOT_HEADER.size + len(content) <= self._slot_bytes

    def write(self, content: bytes) -> None:
        """Replace the older of the two records."""
        header = _SLOT_HEADER.pack(self._sequence + 1, len(content), zlib.crc32(content))
        os.pwrite(self._descriptor, header + content, (self._sequence % 2) * self._slot_bytes)
        self._sequence += 1

    def close(self) -> None:
        """Release the lock; the file stays, as the record of an ended worker."""
        os.close(self._descriptor)


def read_record(path: Path) -> bytes | None:
    """Return the newest complete record of a file, or None if it has none. Raises OSError."""
    content = path.read_bytes()
    slot_bytes = len(content) // 2
    newest: tuple[int, bytes] | None = None
    for start in (0, slot_bytes):
        if slot_bytes < _SLOT_HEADER.size:
            break
        sequence, length, checksum = _SLOT_HEADER.unpack_from(content, start)
        begin = start + _SLOT_HEADER.size
        record = content[begin : begin + length]
        whole = sequence > 0 and zlib.crc32(record) == checksum
        if whole and (newest is None or sequence > newest[0]):
            newest = (sequence, record)
    return newest[1] if newest is not None else None


def is_alive(path: Path) -> bool:
    """Return whether the worker that writes this file is alive: the kernel releases its lock when it ends. Raises
    OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
