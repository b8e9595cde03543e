"""The files of documents: their lock, the copy of the last good one, and the rounds of a change in an object store."""

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeVar

from service.addresses.registry_address import uri_of
from service.files import exclusive_lock
from service.objects.answers import ReplacedMeanwhile
from service.objects.copies import DOCUMENT_FILES, StoreVersion, bring_document, objects_of

LOCK_FILE: Final = ".rollout.lock"
LOCK_SECONDS: Final = 2.0
_ROUNDS_SECONDS = 15.0
_LONGEST_PAUSE_SECONDS = 0.8
Result = TypeVar("Result")


def last_good(path: Path) -> Path:
    """Return the path of the last complete copy: `rollout.json` -> `.rollout.json.last`."""
    return path.parent / f".{path.name}.last"


def writer_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock this registry's documents for one writer of this file system.

    Raises TimeoutError (an OSError) if other writers hold the lock for longer than 2 s, or 15 s in the copy of an
    object store, for which each of them waits.
    """
    return exclusive_lock(folder / LOCK_FILE, LOCK_SECONDS if uri_of(folder) is None else _ROUNDS_SECONDS)


def locked(registry: Path, file: str, change: Callable[[StoreVersion | None], Result]) -> Result:
    """Make a change of a document under the lock, and return its result.

    If the folder is the copy of an object store, all documents are brought over first, because a change of one is
    checked beside the others, and `change` gets the version of its own. The lock holds on one host; if another host has
    replaced the document meanwhile, the change is made again on the new one. Raises OSError (also if it was replaced
    for 15 s again and again), and what `change` raises.
    """
    if objects_of(registry) is not None:
        _make_copy_folder(registry)
    for pause in _pauses():
        with writer_lock(registry):
            for other in DOCUMENT_FILES:
                if other != file:
                    bring_document(registry, other)
            version = bring_document(registry, file)
            try:
                return change(version)
            except ReplacedMeanwhile:
                pass
        time.sleep(pause)
    raise TimeoutError(errno.ETIMEDOUT, f"other writers have replaced {file} again and again")


def bring_documents(registry: Path) -> None:
    """Bring all documents of the object store into the copy of a registry; nothing happens to a plain folder.

    Raises OSError, also if the store does not answer.
    """
    if objects_of(registry) is None:
        return
    _make_copy_folder(registry)
    for file in DOCUMENT_FILES:
        with writer_lock(registry):
            bring_document(registry, file)


def _make_copy_folder(registry: Path) -> None:
    """Make the folder of a copy, which may be absent or removed at any time."""
    registry.mkdir(mode=0o700, parents=True, exist_ok=True)


def _pauses() -> Iterator[float]:
    """Random pauses, longer and longer, so that many writers do not meet again."""
    end = time.monotonic() + _ROUNDS_SECONDS
    longest = 0.05
    while time.monotonic() < end:
        yield random.uniform(0, longest)  # nosec B311
        longest = min(_LONGEST_PAUSE_SECONDS, 2 * longest)
