"""Hosts with copies of a registry in a bucket, and versions published from them."""

from pathlib import Path

from object_store import URI
from synthetic_bundle import publish as publish_by_hand

from export.publish import Sign
from export.publish import publish as publish_for_real
from service.addresses.registry_address import registry_folder
from service.bundle.manifest import Manifest
from service.bundle.verify import read_manifest


def host(folder: Path, name: str, uri: str = URI) -> Path:
    """The copy of the registry on a host of this name."""
    registry = registry_folder(uri, folder / name)
    registry.mkdir(parents=True)
    return registry


def synthetic(folder: Path, version: str, bias: float = 0.0) -> tuple[Manifest, dict[str, bytes]]:
    """A version that is not published yet: its manifest and its files."""
    bundle = publish_by_hand(folder, version, bias=bias)
    manifest = read_manifest(bundle)
    return manifest, {name: (bundle / name).read_bytes() for name in manifest.files}


def published(registry: Path, version: str, bias: float = 0.0, sign: Sign | None = None) -> Path:
    """Publish a version in a registry, whether it is a folder or in a bucket."""
    drafts = registry.parent / f"drafts-{registry.name}"
    return publish_for_real(registry, *synthetic(drafts, version, bias), sign)
