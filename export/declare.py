"""Publishes a version again with features that only rules read: the same graph and the same scores, a wider schema."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from export.publish import PublishError, Sign, next_version, publish, staging
from features.errors import SchemaError
from features.files.strict_yaml import YamlError, read_yaml
from features.model_types import refuse_misread_truths
from features.schemas.rule_features import RuleFeatures
from features.schemas.schema import FeatureSchema
from service.bundle.manifest import Manifest
from service.bundle.verify import BundleRejected, read_manifest, verified_files
from service.errors import first_fault


def declare(
    source: Path, features: Path, registry: Path, version: str | None = None, sign: Sign | None = None
) -> Manifest:
    """Publish the bundle in the folder `source` in a registry, with the features of a YAML or JSON file behind its own.

    Rows of the store fit the new version if their fingerprint is the same; otherwise they are loaded again. Raises
    PublishError that names the file and the field; nothing is published then.
    """
    added = read_rule_features(features)
    try:
        manifest = read_manifest(source.resolve())
        files = verified_files(source, manifest, keep=manifest.files)
    except BundleRejected as error:
        raise PublishError(f"not published: {error}") from None
    schema = _schema_behind(manifest, added, features)
    declared = manifest.model_copy(
        update={
            "version": version or next_version(registry, manifest.name),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "feature_schema": schema,
            "fingerprint": schema.fingerprint,
            "provenance": manifest.provenance | {"graph_of": manifest.label},
        }
    )
    with staging(registry, manifest.name) as folder:
        publish(
            registry, declared, files, sign, [_second(source / n, folder) for n in manifest.files if n not in files]
        )
    return declared


def _second(path: Path, folder: Path) -> Path:
    """Return a second name, or else a copy, of a file that is too large to be held in memory. Raises PublishError."""
    second = folder / path.name
    try:
        try:
            os.link(path.resolve(), second)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, second)
    except OSError as error:
        raise PublishError(f"{second}: {error.strerror or error}; nothing was published") from error
    return second


def read_rule_features(path: Path) -> RuleFeatures:
    """Read the sections `item`, `candidate` and `counters` of a file. Raises PublishError."""
    try:
        document = read_yaml(path)
        refuse_misread_truths(document, RuleFeatures)
        return RuleFeatures.model_validate(document.value)
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror}") from None
    except YamlError as error:
        raise PublishError(str(error)) from None
    except ValidationError as error:
        raise PublishError(f"{path}: {first_fault(error, RuleFeatures)}") from None


def _schema_behind(manifest: Manifest, added: RuleFeatures, path: Path) -> FeatureSchema:
    try:
        return added.behind(manifest.feature_schema)
    except SchemaError as error:
        raise PublishError(f"{path}: {error}") from None
    except ValidationError as error:
        raise PublishError(f"{path}: {first_fault(error, FeatureSchema)}") from None
