"""Fetches versions of a registry in an object store into its copy on this host, whole or not at all.

Nothing here changes a registry that is a plain folder.
"""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from features.files.writing import write_whole
from service.bundle.manifest import MANIFEST_FILE, TABLES_FILE
from service.bundle.signature import SIGNATURE_FILE
from service.files import exclusive_lock
from service.objects.answers import ObjectStoreAway, StoredObject, plain_tag
from service.objects.copies import objects_of

if TYPE_CHECKING:
    from service.objects.store import RegistryObjects

log = logging.getLogger("funnelrank.bundle")
NOT_FETCHED: Final = "bundle_not_fetched"
FETCHING: Final = ".fetching-"
_MANIFESTS = ".manifests"  # of versions that were listed and not fetched
_TAG = ".etag"  # beside a manifest: the plain ETag that it had in the store
_TURN_SECONDS = 600.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME_BYTES = 200  # file systems end at 255, and temporary files have longer names


@dataclass(frozen=True)
class _Source:
    """The object store of a version's registry, and the version's place there: NAME/VERSION."""

    objects: "RegistryObjects"
    place: str

    def objects_of_files(self, manifest: bytes) -> dict[str, str]:
        """The object of each file of a manifest. Raises ObjectStoreAway, also if a file is not there (yet)."""
        stored = {}
        for name, digest in _files_of(manifest).items():
            # A registry that was copied into the bucket as a folder has its files beside the manifest.
            beside = f"{self.place}/{name}"
            places = (self.objects.file_name(digest), beside)
            stored[name] = next((each for each in places if self.objects.size_of(each) is not None), "")
            if not stored[name]:
                raise ObjectStoreAway(f"{self.objects.uri}/{beside} is not there, although the manifest names it")
        return stored

    def signature_name(self, manifest: bytes) -> str:
        return f"{self.place}/manifest.{sha256(manifest).hexdigest()}.sig"

    def signature(self, manifest: bytes) -> bytes | None:
        """The signature of a manifest; None if it has none. Raises ObjectStoreAway."""
        for name in (self.signature_name(manifest), f"{self.place}/{SIGNATURE_FILE}"):
            stored = self.objects.look(name).stored
            if stored is not None:
                return stored.content
        return None


def fetch(folder: Path) -> None:
    """Fetch a version, unless it is there. A version that is not published stays absent.

    Its files are not checked here: whoever loads it checks them, as in any registry. Raises OSError.
    """
    source = _source_of(folder)
    if source is None or folder.is_dir():
        return
    objects = source.objects
    place = source.place
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder.parent / f".{folder.name}.lock", _TURN_SECONDS):
        if folder.is_dir():
            return
        manifest = objects.look(f"{place}/{MANIFEST_FILE}").stored
        if manifest is None:
            return
        aside = Path(tempfile.mkdtemp(prefix=FETCHING, dir=folder.parent))
        try:
            for name, stored in source.objects_of_files(manifest.content).items():
                objects.download(stored, aside / name)
                if name == TABLES_FILE and (aside / name).exists():
                    (aside / name).chmod(0o444)  # a reminder, as in a folder: workers map it
            signature = source.signature(manifest.content)
            if signature is not None:
                write_whole(aside / SIGNATURE_FILE, signature)
            _save_manifest(aside, manifest)
            aside.chmod(0o755)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    log.info("%s was fetched from %s", place, objects.uri)


def fetch_signature(folder: Path) -> bool:
    """Fetch the present signature of a version; return whether it is another one than the copy had."""
    source = _source_of(folder)
    if source is None:
        return False
    path = folder / SIGNATURE_FILE
    try:
        signature = source.signature((folder / MANIFEST_FILE).read_bytes())
        if signature is None or (path.exists() and path.read_bytes() == signature):
            return False
        write_whole(path, signature)
    except OSError as error:
        log.warning("the signature of %s could not be fetched: %s", source.place, error.strerror)
        return False
    return True


def put_signature(folder: Path) -> None:
    """Bring the signature in a version's folder to the object store, if there is one. Raises OSError."""
    source = _source_of(folder)
    if source is not None:
        name = source.signature_name((folder / MANIFEST_FILE).read_bytes())
        source.objects.put(name, (folder / SIGNATURE_FILE).read_bytes())


def fetched_manifest(folder: Path, tag: str = "") -> Path:
    """Return the folder of a published version with its manifest, which alone is fetched unless all is there.

    `tag` is the plain ETag of the manifest in the store, if it is known: one that was fetched with this tag is not
    fetched again. Raises OSError.
    """
    source = _source_of(folder)
    if source is None or folder.is_dir():
        return folder
    alone = folder.parent.parent / _MANIFESTS / source.place
    # A version that was deleted and published again has another manifest.
    if not tag or _tag_of(alone) != tag:
        manifest = source.objects.look(f"{source.place}/{MANIFEST_FILE}").stored
        if manifest is None:
            return folder
        alone.mkdir(parents=True, exist_ok=True)
        _save_manifest(alone, manifest)
    return alone


def was_replaced(folder: Path, tag: str = "") -> bool:
    """Whether a version was published again since it was fetched: its manifest is another one by now.

    `tag` is the manifest's plain ETag, if it is known. False if the store does not answer.
    """
    source = _source_of(folder)
    if source is None or not folder.is_dir() or (tag and _tag_of(folder) == tag):
        return False
    # The publisher's own copy has no tag, and a manifest that was put again as it was has a new one.
    with suppress(OSError):
        manifest = source.objects.look(f"{source.place}/{MANIFEST_FILE}").stored
        if manifest is not None and manifest.content != (folder / MANIFEST_FILE).read_bytes():
            return True
        if manifest is not None:
            write_whole(folder / _TAG, plain_tag(manifest.etag).encode())
    return False


def _save_manifest(folder: Path, manifest: StoredObject) -> None:
    # The tag last, so that it is never beside an older manifest.
    write_whole(folder / MANIFEST_FILE, manifest.content)
    write_whole(folder / _TAG, plain_tag(manifest.etag).encode())


def _tag_of(folder: Path) -> str:
    try:
        return (folder / _TAG).read_text()
    except (OSError, ValueError):
        return ""


def put_version(folder: Path, aside: Path, files: Mapping[str, str]) -> None:
    """Publish the version whose files lie in `aside`, if the registry of `folder` is in an object store.

    The manifest comes last and only if there is none yet, so that readers see all of it, and one publisher wins.
    `files` has the SHA-256 of each file. Raises ReplacedMeanwhile if the version is published, and OSError.
    """
    source = _source_of(folder)
    if source is None:
        return
    manifest = (aside / MANIFEST_FILE).read_bytes()
    for name, digest in files.items():
        source.objects.put_file(aside / name, digest)
    if (aside / SIGNATURE_FILE).exists():
        # Named by the manifest, so that another publisher's signature is another object.
        source.objects.put(source.signature_name(manifest), (aside / SIGNATURE_FILE).read_bytes())
    source.objects.write(f"{source.place}/{MANIFEST_FILE}", manifest, None)


def is_published(folder: Path) -> bool:
    """Whether a version exists: its folder, or its manifest in the object store. Raises OSError."""
    source = _source_of(folder)
    if source is None or folder.exists():
        return folder.exists()
    return source.objects.size_of(f"{source.place}/{MANIFEST_FILE}") is not None


def versions_in(folder: Path) -> dict[str, str]:
    """The versions in a model's folder by name, each with the plain ETag of its manifest, "" where that is unknown.

    Raises OSError.
    """
    objects = objects_of(folder.parent)
    if objects is not None:
        return dict(sorted(objects.manifests(folder.name, MANIFEST_FILE).items()))
    return dict.fromkeys(names_in(folder), "")


def names_in(folder: Path) -> list[str]:
    """The names of the folders in a registry (the models) or in a model's folder (the versions). Raises OSError."""
    for registry, prefix in ((folder, ""), (folder.parent, folder.name)):
        objects = objects_of(registry)
        if objects is not None:
            return list(objects.folders(prefix))
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _source_of(folder: Path) -> _Source | None:
    """Return where a version comes from; None if its registry is a plain folder. Raises ObjectStoreAway."""
    registry = folder.parent.parent
    if registry.name == _MANIFESTS:
        registry = registry.parent
    objects = objects_of(registry)
    return None if objects is None else _Source(objects, f"{folder.parent.name}/{folder.name}")


def _files_of(manifest: bytes) -> dict[str, str]:
    """The files of a manifest with their hashes. What does not fit is left out, and the version refused when loaded."""
    try:
        files: Any = json.loads(manifest)["files"]
        return {name: digest for name, digest in files.items() if _is_file_name(name) and _DIGEST.fullmatch(digest)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _is_file_name(name: str) -> bool:
    """Whether a file can have this name, on the disk and in an object store."""
    if not name.isprintable() or len(name.encode()) > _LONGEST_NAME_BYTES:
        return False
    return Path(name).name == name and name not in ("", ".", "..")
