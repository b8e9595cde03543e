"""Maps the tensors of a bundle that lie beside its graph: read-only, and shared by all processes of a host.

ONNX Runtime gets them as tensors over the mapped file (`SessionOptions.add_initializer`), and copies nothing. The
descriptor that was hashed is the one that is mapped, so that a file put in its place has no effect.
"""

import logging
import mmap
import os
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from service.bundle.hashes import HashRecords, identity_of
from service.bundle.manifest import TABLES_FILE, ExternalTensor, Manifest
from service.bundle.verify import BundleRejected, check_hash, opened

log = logging.getLogger("funnelrank.bundle")
CHANGED = "tables_changed"
_UNMAPPED_AT_ONCE = 2 << 20  # about a tenth of a millisecond
_UNMAP_PAUSE_S = 0.001
# ONNX Runtime wants the file that a graph names to exist, although the tensors are given to it. This folder of the
# package has an empty one, from which it can read no tensor that the manifest does not name. Nothing is written, so a
# temporary folder that is full, missing or read-only stops no version.
STUB_FOLDER: Final = Path(__file__).parent / "stub"


class Tables:
    """The mapped tensors of one bundle. The descriptor is freed with the last reference, the mapping soon after it."""

    def __init__(self, path: Path, descriptor: int, tensors: tuple[ExternalTensor, ...], digest: str) -> None:
        """Take over an open file of this SHA-256, also if an error is raised."""
        weakref.finalize(self, os.close, descriptor)
        self.path = path
        self.tensors = tensors
        self._digest = digest
        self._descriptor = descriptor
        self._identity = identity_of(descriptor)
        self._mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        unmapping = weakref.finalize(self, _unmap_in_a_thread, self._mapped)
        unmapping.atexit = False
        self.values = {tensor.name: _value(self._mapped, tensor) for tensor in tensors}
        # ONNX Runtime keeps a pointer to these, so they live as long as the session.
        self.initializers: Mapping[str, Any] = {
            name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in self.values.items()
        }

    def touch(self) -> None:
        """Read one byte of every page, so that no ranking waits for the first access to a page."""
        int(np.frombuffer(self._mapped, np.uint8)[:: mmap.PAGESIZE].max())

    @property
    def touched(self) -> bool:
        """Whether the kernel has recorded a change of the file since it was verified. Costs one call of the kernel."""
        return identity_of(self._descriptor) != self._identity

    def verify_again(self, hashes: HashRecords) -> None:
        """Raise BundleRejected if the file has another SHA-256 than it had.

        A file that was written to is refused unread. After another change, such as a new name, it is hashed again.
        """
        identity = identity_of(self._descriptor)
        if identity == self._identity:
            return
        unchanged = identity.of_content == self._identity.of_content
        if unchanged:
            try:
                unchanged = hashes.sha256_of(self._descriptor) == self._digest
            except OSError:  # it is being written to
                unchanged = False
        if not unchanged:
            problem = f"{self.path} was changed after it was verified; bundles are immutable, publish another version"
            raise BundleRejected(CHANGED, problem)
        self._identity = identity


def _unmap_in_a_thread(mapped: mmap.mmap) -> None:
    """Give up the pages of a mapping piece by piece; the mapping itself ends with the thread.

    To unmap gigabytes of touched pages takes 50 ms and more. The last reference is often a ranking's, so the event loop
    would spend that time, and other threads could not map memory meanwhile.
    """
    try:
        threading.Thread(target=_give_up_pages, args=(mapped,), name="unmap", daemon=True).start()
    except RuntimeError:  # no thread can be had: the mapping ends here and now
        log.warning("large tables are unmapped at once, because no thread could be started", exc_info=True)


def _give_up_pages(mapped: mmap.mmap) -> None:
    for start in range(0, len(mapped), _UNMAPPED_AT_ONCE):
        mapped.madvise(mmap.MADV_DONTNEED, start, min(_UNMAPPED_AT_ONCE, len(mapped) - start))
        time.sleep(_UNMAP_PAUSE_S)


def _value(mapped: mmap.mmap, tensor: ExternalTensor) -> np.ndarray:
    count = tensor.values
    return np.frombuffer(mapped, tensor.dtype, count, tensor.offset).reshape(tensor.shape)


def open_tables(folder: Path, manifest: Manifest, hashes: HashRecords) -> Tables | None:
    """Verify and map the tensors beside a bundle's graph; None if it has none.

    Raises BundleRejected if the file is missing or has another SHA-256 or length than the manifest says.
    """
    if not manifest.external:
        return None
    path = folder / TABLES_FILE
    with opened(path) as file:
        check_hash(path, file.fileno(), manifest.files[TABLES_FILE], hashes)
        tables = map_tables(path, file.fileno(), manifest.external, manifest.files[TABLES_FILE])
    tables.touch()
    return tables


def map_tables(path: Path, descriptor: int, tensors: tuple[ExternalTensor, ...], digest: str) -> Tables:
    """Map an open file of this SHA-256, which the caller closes. Raises OSError, and BundleRejected if it is too
    short.
    """
    length = os.fstat(descriptor).st_size
    for tensor in tensors:
        end = tensor.offset + tensor.bytes
        if end > length:
            problem = f"{path} has {length} bytes, but tensor {tensor.name!r} of the manifest ends at {end}"
            raise BundleRejected("bundle_incomplete", problem)
    return Tables(path, os.dup(descriptor), tensors, digest)
