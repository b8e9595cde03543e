"""Publishes a bundle: its files are written in a hidden folder, appear in the registry in one step, and replace
nothing. If the registry is in an object store, they are put there first, and the manifest last.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from features.files.unfinished import finish, remove_abandoned, unfinished_folder
from service.addresses.registry_address import shown, uri_of
from service.bundle.fetching import is_published, names_in, put_version
from service.bundle.manifest import MANIFEST_FILE, Manifest
from service.bundle.signature import SIGNATURE_FILE
from service.objects.answers import ReplacedMeanwhile

_PUBLISHING = ".publishing-"
Sign = Callable[[bytes], bytes]


class PublishError(RuntimeError):
    """A bundle that cannot be published; the registry is unchanged."""


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def next_version(registry: Path, name: str) -> str:
    """Return one more than the highest whole-number version of that name; `1` for the first. Raises PublishError."""
    try:
        names = names_in(registry / name)
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise PublishError(f"{shown(registry / name)}: {error.strerror}") from None
    return str(max((int(n) for n in names if n.isdigit()), default=0) + 1)


def new_folder(registry: Path, name: str, version: str) -> Path:
    """The folder of a version that is not published yet. Raises PublishError."""
    folder = registry / name / version
    try:
        is_taken = is_published(folder)
    except OSError as error:
        raise PublishError(f"{shown(folder)}: {error.strerror}; nothing was published") from None
    if is_taken:
        raise _published_already(folder)
    return folder


def _published_already(folder: Path) -> PublishError:
    return PublishError(f"{shown(folder)} is published already; bundles are never overwritten, pass another --version")


@contextmanager
def staging(registry: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside the versions of a model, removed at the end. Raises PublishError if it cannot be made."""
    parent = registry / name
    stack = ExitStack()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent, f"{_PUBLISHING}*")
        aside = stack.enter_context(unfinished_folder(parent, _PUBLISHING))
    except OSError as error:
        raise PublishError(f"{parent}: {error.strerror}") from error
    with stack:
        yield aside


def publish(
    registry: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    sign: Sign | None = None,
    written: Sequence[Path] = (),
) -> Path:
    """Write the bundle, signed if `sign` is given, and return its folder.

    `written` are files that are in the registry's file system already; they are moved into the bundle. Raises
    PublishError if the version exists or the disk refuses.

    The folder is filled under a hidden name, synced, then renamed: a reader sees a complete bundle or none.
    """
    target = new_folder(registry, manifest.name, manifest.version)
    with staging(registry, manifest.name) as aside:
        try:
            text = manifest.model_dump_json(indent=2).encode()
            signed = {SIGNATURE_FILE: sign(text)} if sign else {}
            for name, content in {**files, MANIFEST_FILE: text, **signed}.items():
                with synced(aside / name) as file:
                    file.write(content)
            for path in written:
                path.rename(aside / path.name)
            put_version(target, aside, manifest.files)
            aside.chmod(0o755)
            _move_into_place(aside, target)
        except ReplacedMeanwhile:
            raise _published_already(target) from None
        except OSError as error:
            raise PublishError(f"{shown(target)}: {error.strerror or error}; nothing was published") from error
    return target


def _move_into_place(aside: Path, target: Path) -> None:
    """Rename a folder. Raises OSError, and PublishError if another publisher was faster: its folder is not empty."""
    try:
        finish(aside, target)
    except OSError as error:
        # In an object store the version is published by now, and this host may have fetched it already.
        if uri_of(target.parent.parent) is not None:
            return
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _published_already(target) from None
        raise
    _sync_folder(target.parent)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing; at the end it is on the disk."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
