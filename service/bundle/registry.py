"""Lists the registry: all published versions, live or not. Reads folders and manifests, and loads no model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.bundle.fetching import fetched_manifest, names_in
from service.bundle.manifest import BundleName, Manifest, Version
from service.bundle.verify import BundleRejected, read_manifest

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
    """List every version in the registry, by name and version. Raises OSError if the registry cannot be read."""
    versions = []
    for name in _fitting(names_in(registry), _NAME):
        for version in _fitting(names_in(registry / name), _VERSION):
            target = Target(name=name, version=version)
            folder = fetched_manifest(folder_of(registry, target))
            try:
                versions.append(PublishedVersion(target, read_manifest(folder, trusted_keys), None))
            except BundleRejected as error:
                versions.append(PublishedVersion(target, None, str(error)))
    return versions


def _fitting(names: Iterable[str], pattern: TypeAdapter[str]) -> Iterator[str]:
    return (name for name in names if _fits(name, pattern))


def _fits(name: str, pattern: TypeAdapter[str]) -> bool:
    try:
        pattern.validate_python(name)
    except ValidationError:
        return False
    return True
