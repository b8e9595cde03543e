"""Lists the registry: all published versions, live or not. Reads folders and manifests, and loads no model."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.bundle.fetching import NOT_FETCHED, fetched_manifest, names_in
from service.bundle.manifest import BundleName, Manifest, Version
from service.bundle.verify import BundleRejected, read_manifest
from service.objects.copies import objects_of

_READERS = 32  # manifests that are fetched at once: an object store takes tens of milliseconds for each
_NAME: TypeAdapter[str] = TypeAdapter(BundleName)
_VERSION: TypeAdapter[str] = TypeAdapter(Version)


class Target(BaseModel):
    """A published version, by name.

    Both parts must match a pattern, so that no request can name a path outside the registry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: BundleName
    version: Version

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class PublishedVersion:
    """One version in the registry. If its manifest cannot be read, `manifest` is None and `problem` says why."""

    target: Target
    manifest: Manifest | None
    problem: str | None


def folder_of(registry: Path, target: Target) -> Path:
    return registry / target.name / target.version


def published(registry: Path, trusted_keys: Path | None = None) -> list[PublishedVersion]:
    """List every version in the registry, by name and version. Raises OSError if its names cannot be read."""
    with _mapping(registry) as mapped:
        names = [*_fitting(names_in(registry), _NAME)]
        versions_by_name = mapped(lambda name: [*_fitting(names_in(registry / name), _VERSION)], names)
        targets = [
            Target(name=name, version=version)
            for name, versions in zip(names, versions_by_name, strict=True)
            for version in versions
        ]
        return [*mapped(lambda target: _read(registry, target, trusted_keys), targets)]


@contextmanager
def _mapping(registry: Path) -> Iterator[Any]:
    """Yield a `map` that makes calls of an object store side by side, each of which has its time limit.

    A folder that hangs would hold up the end of the process by the threads of a pool, so there it is the plain `map`.
    """
    if objects_of(registry) is None:
        yield map
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield pool.map


def _read(registry: Path, target: Target, trusted_keys: Path | None) -> PublishedVersion:
    """Read one manifest. One that the store does not give is a problem of its version, not of the whole list."""
    try:
        folder = fetched_manifest(folder_of(registry, target))
        return PublishedVersion(target, read_manifest(folder, trusted_keys), None)
    except BundleRejected as error:
        return PublishedVersion(target, None, str(error))
    except OSError as error:
        return PublishedVersion(target, None, f"{NOT_FETCHED}: {error.strerror}")


def _fitting(names: Iterable[str], pattern: TypeAdapter[str]) -> Iterator[str]:
    return (name for name in names if _fits(name, pattern))


def _fits(name: str, pattern: TypeAdapter[str]) -> bool:
    try:
        pattern.validate_python(name)
    except ValidationError:
        return False
    return True
