"""Publishes a bundle: its files are written in a hidden folder, appear in the registry in one step, and replace
nothing.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from service.bundle.manifest import MANIFEST_FILE, Manifest
from service.bundle.signature import SIGNATURE_FILE

Sign = Callable[[bytes], bytes]


class PublishError(RuntimeError):
    """A bundle that cannot be published; the registry is unchanged."""


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def next_version(registry: Path, name: str) -> str:
    """Return one more than the highest whole-number version of that name; `1` for the first."""
    folder = registry / name
    taken = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return str(max(taken, default=0) + 1)


def new_folder(registry: Path, name: str, version: str) -> Path:
    """The folder of a version that is not published yet. Raises PublishError."""
    folder = registry / name / version
    if folder.exists():
        raise PublishError(f"{folder} is published already; bundles are never overwritten, pass another --version")
    return folder


@contextmanager
def staging(registry: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside the versions of a model, removed at the end. Raises PublishError if it cannot be made."""
    parent = registry / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".publishing-", dir=parent))
    except OSError as error:
        raise PublishError(f"{parent}: {error.strerror}") from error
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
            said = manifest.model_dump_json(indent=2).encode()
            signed = {SIGNATURE_FILE: sign(said)} if sign else {}
            for name, content in {**files, MANIFEST_FILE: said, **signed}.items():
                with synced(aside / name) as file:
                    file.write(content)
            for path in written:
                path.rename(aside / path.name)
            aside.chmod(0o755)
            os.rename(aside, target)  # fails on a folder that appeared meanwhile, since that one is not empty
            _sync_folder(target.parent)
        except OSError as error:
            raise PublishError(f"{target}: {error.strerror or error}; nothing was published") from error
    return target


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
