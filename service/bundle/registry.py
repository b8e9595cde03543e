"""Lists the registry: all published versions, live or not. Reads folders and manifests, and loads no model."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.addresses.registry_address import shown
from service.bundle.fetching import NOT_FETCHED, fetched_manifest, names_in, versions_in, was_replaced
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


@dataclass(frozen=True)
class RegistryList:
    """The versions in the registry, and why those of some models are missing."""

    versions: tuple[PublishedVersion, ...]
    problems: tuple[str, ...]


def folder_of(registry: Path, target: Target) -> Path:
    return registry / target.name / target.version


def published(registry: Path, trusted_keys: Path | None = None) -> RegistryList:
    """List every version in the registry, by name and version. Raises OSError if the models cannot be listed."""
    with _mapping(registry) as mapped:
        names = [*_fitting(names_in(registry), _NAME)]
        models = [*mapped(partial(_versions_of, registry), names)]
        targets = [target for tags, _ in models for target in tags]
        tags_of_targets = [tag for tags, _ in models for tag in tags.values()]
        versions = mapped(partial(_read, registry, trusted_keys), targets, tags_of_targets)
        return RegistryList(tuple(versions), tuple(problem for _, problem in models if problem))


def _versions_of(registry: Path, name: str) -> tuple[dict[Target, str], str]:
    """The versions of a model with the ETags of their manifests, and why they cannot be listed, empty if they can."""
    try:
        tags = versions_in(registry / name)
    except OSError as error:
        return {}, f"the versions of {name} cannot be listed: {error.strerror}"
    return {Target(name=name, version=version): tags[version] for version in _fitting(tags, _VERSION)}, ""


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


def _read(registry: Path, trusted_keys: Path | None, target: Target, tag: str) -> PublishedVersion:
    """Read one manifest. One that the store does not give is a problem of its version, not of the whole list."""
    folder = folder_of(registry, target)
    try:
        if was_replaced(folder, tag):
            return PublishedVersion(target, None, str(_replaced(folder)))
        folder = fetched_manifest(folder, tag)
        return PublishedVersion(target, read_manifest(folder, trusted_keys), None)
    except BundleRejected as error:
        return PublishedVersion(target, None, str(error))
    except OSError as error:
        return PublishedVersion(target, None, f"{NOT_FETCHED}: {error.strerror}")


def refuse_replaced(registry: Path, target: Target) -> None:
    """Raise BundleRejected for a version that was published again after this host had fetched it.

    This host would go live with another model than the others.
    """
    folder = folder_of(registry, target)
    if was_replaced(folder):
        raise _replaced(folder)


def _replaced(folder: Path) -> BundleRejected:
    advice = f"remove {folder}, or publish under another number"
    return BundleRejected("version_replaced", f"{shown(folder)} was published again after it was fetched; {advice}")


def _fitting(names: Iterable[str], pattern: TypeAdapter[str]) -> Iterator[str]:
    return (name for name in names if _fits(name, pattern))


def _fits(name: str, pattern: TypeAdapter[str]) -> bool:
    try:
        pattern.validate_python(name)
    except ValidationError:
        return False
    return True
