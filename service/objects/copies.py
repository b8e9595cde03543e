"""Finds the object store behind a registry's folder, and keeps the documents of the folder as they are there.

Beside a document lies the ETag that it had: `.rollout.json.etag`. A folder that is no copy has no store, and nothing
here changes it.
"""

import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from features.files.writing import write_whole
from service.addresses.log_address import missing_extra
from service.addresses.registry_address import store_address, uri_of
from service.files import FileSignature, file_signature
from service.objects.answers import Look, ObjectStoreAway, StoredObject

if TYPE_CHECKING:
    from service.objects.store import RegistryObjects

log = logging.getLogger("funnelrank.objects")
DOCUMENT_FILES: Final = ("callers.json", "fusion.json", "rules.json", "rollout.json")
_STATE_FILE = ".store-state"
_SILENT_SECONDS = 60.0  # without a look at the store: the process that keeps the copy has ended


@dataclass(frozen=True)
class StoreVersion:
    """The document that a writer read from the object store: its ETag, None if there was none."""

    etag: str | None


def objects_of(registry: Path) -> "RegistryObjects | None":
    """Return the store that a registry's folder is the copy of; None for any other folder. Raises ObjectStoreAway."""
    uri = uri_of(registry)
    return None if uri is None else _opened(uri)


@lru_cache(maxsize=16)
def _opened(uri: str) -> "RegistryObjects":
    missing = missing_extra(store_address(uri))
    if missing:
        raise ObjectStoreAway(missing)
    # Imported here, because only registries in an object store need the library.
    from service.objects.opening import CannotOpen
    from service.objects.store import RegistryObjects

    try:
        return RegistryObjects(uri)
    except CannotOpen as error:
        raise ObjectStoreAway(str(error)) from None


def look_at_document(registry: Path, file: str) -> tuple[str | None, Look]:
    """Ask the store for a document that differs from the copy's; return the copy's ETag and the answer.

    Raises ObjectStoreAway. Only for a copy.
    """
    objects = objects_of(registry)
    assert objects is not None
    known = _etag_of(registry / file)
    return known, objects.look(file, known)


def bring_document(registry: Path, file: str) -> StoreVersion | None:
    """Make the copy's document the one of the store, and return its version; None if the folder is no copy.

    The caller holds the writer's lock. Raises ObjectStoreAway, and OSError of the disk.
    """
    objects = objects_of(registry)
    if objects is None:
        return None
    # Read whole: in Google Cloud Storage an object that was put again with the same content has the same ETag, and
    # another generation, which a write has to name.
    stored = objects.look(file).stored
    if stored is None:
        return StoreVersion(None)
    if stored.etag != _etag_of(registry / file):
        _save(registry / file, stored)
    return StoreVersion(stored.etag)


def take_document(registry: Path, file: str, known: str | None, stored: StoredObject) -> bool:
    """Replace the copy's document, unless a writer has replaced it since it had the ETag `known`.

    The caller holds the writer's lock. Raises OSError.
    """
    if _etag_of(registry / file) != known:
        return False
    _save(registry / file, stored)
    return True


def replace_document(path: Path, content: bytes, version: StoreVersion | None) -> None:
    """Write a document: the file and, if its folder is a copy, first the object in place of `version`.

    Raises OSError, and ReplacedMeanwhile if the object is another one by now.
    """
    if version is None:
        write_whole(path, content)
        return
    objects = objects_of(path.parent)
    assert objects is not None
    etag = objects.write(path.name, content, version.etag)
    try:
        _save(path, StoredObject(content, etag))
    except OSError as error:
        # The change is made. The copy follows when the disk takes it.
        log.warning("%s was changed in the store, and its copy was not: %s", path.name, error.strerror)


def _save(path: Path, stored: StoredObject) -> None:
    write_whole(path, stored.content)
    note = f"{stored.etag}\n{_text(file_signature(path))}"
    write_whole(_note_of(path), note.encode())


def _etag_of(path: Path) -> str | None:
    """The ETag of the copy's document; None if there is none, or if the file was changed by hand."""
    try:
        etag, _, signature = _note_of(path).read_text().partition("\n")
    except (OSError, ValueError):
        return None
    return etag if etag and signature == _text(file_signature(path)) else None


def _note_of(path: Path) -> Path:
    return path.parent / f".{path.name}.etag"


def _text(signature: FileSignature | None) -> str:
    return "-".join(map(str, signature)) if signature is not None else "absent"


def write_state(registry: Path, problem: str) -> None:
    """Record that the store was asked just now, and the problem if it did not answer. Raises OSError."""
    file = registry / _STATE_FILE
    try:
        same = file.read_text() == problem
    except (OSError, ValueError):
        same = False
    if same:
        file.touch()
    else:
        write_whole(file, problem.encode())


def copy_problem(registry: Path) -> str | None:
    """Return why a copy may be older than its store, empty if it is not; None if the folder is no copy."""
    uri = uri_of(registry)
    if uri is None:
        return None
    file = registry / _STATE_FILE
    try:
        age = time.time() - file.stat().st_mtime
        problem = file.read_text()
    except (OSError, ValueError):
        return f"nobody has asked {uri} yet"
    if problem or age < _SILENT_SECONDS:
        return problem
    return f"nobody has asked {uri} for {age:.0f} s"
