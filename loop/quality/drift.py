"""Compares served features with those of training: missing values, ids without a row in the model, and drift (PSI)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import onnx
from onnx import numpy_helper

from export.external.lookup import PAIRS
from features import MISSING_KEY, MultiCategorical, Numeric, Vector
from features.layouts import Layouts
from features.statistics import psi_of_counts
from loop.errors import LogError
from loop.join.reading import exposures_in
from loop.join.served import counters_of, entity_rows
from loop.proof.records import Exposure, layouts_of
from models.training.diagnostics.histograms import BEHAVIOURS, COUNTERS, key_counts, number_counts
from service.bundle.manifest import GRAPH_FILE, TABLES_FILE, Manifest
from service.bundle.registry import Target, folder_of
from service.bundle.verify import BundleRejected, read_manifest

MOST_IMPRESSIONS: Final = 20_000  # per version
HISTOGRAMS: Final = "feature_histograms"
Place = tuple[str, str]  # a group and a feature


@dataclass
class Drift:
    """The features of each version, and what could not be compared."""

    features: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """What a bundle knows of its training part: histograms by feature, and the keys that have a row, ascending.

    `without_rows`: the features whose values have no row of their own, so that none of them is unknown.
    """

    histograms: Mapping[Place, Mapping[str, Any]]
    known_keys: np.ndarray | None
    without_rows: frozenset[Place] = frozenset()


def drift(
    database: duckdb.DuckDBPyConnection,
    log: Path,
    files: Sequence[Path],
    registry: Path | None,
    model: str,
    since_ms: int,
    most: int = MOST_IMPRESSIONS,
) -> Drift:
    """Compare the rows of seen impressions since a time, after `label` has made its tables.

    At most about `most` impressions per version are read, of requests that a hash of their id chooses.
    """
    result = Drift()
    versions = _choose(database, since_ms, most)
    columns = _served(database, log, files, result)
    for version in versions:
        trained = _trained(registry, model, version, result)
        for (row_version, group, feature), values in columns.items():
            if row_version != version:
                continue
            place = (group, feature)
            known_keys = None if place in trained.without_rows else trained.known_keys
            figures = compared(values, trained.histograms.get(place), known_keys)
            result.features.append({"version": version, "group": group, "feature": feature, **figures})
    return result


def compared(values: np.ndarray, histogram: Mapping[str, Any] | None, known_keys: np.ndarray | None) -> dict[str, Any]:
    """Compare numbers `[n]` or keys `[n, values]` with a histogram of training; what is not known is None."""
    is_id = values.ndim == 2
    missing = (values == MISSING_KEY).all(axis=1) if is_id else np.isnan(values)
    figures: dict[str, Any] = {"impressions": len(values), "missing": float(missing.mean())}
    figures |= {"unknown": None, "psi": None, "missing_training": None}
    present = values[values != MISSING_KEY] if is_id else np.zeros(0)
    if len(present) and known_keys is not None:
        figures["unknown"] = float((~np.isin(present, known_keys)).mean())
    # A feature may have changed its type since; then its bins mean nothing.
    if histogram is not None and is_id == ("keys" in histogram):
        counts = np.array(histogram["counts"])
        if is_id:
            served = key_counts(values, np.array(histogram["keys"], dtype=np.int64))
        else:
            served = number_counts(values, np.array(histogram["borders"]))
        figures["psi"] = psi_of_counts(counts, served)
        figures["missing_training"] = float(counts[-1] / max(1, histogram["impressions"]))
    return figures


def _choose(database: duckdb.DuckDBPyConnection, since_ms: int, most: int) -> list[str]:
    """The table `chosen`: exposures and the positions of their seen items. Gives the versions."""
    database.execute(
        """
        CREATE TABLE chosen AS
        SELECT * FROM (
            SELECT e.filename, e.file_row_number, x.version, list(s.position ORDER BY s.position) AS positions,
                   md5(s.request_id) AS place
            FROM states s JOIN exposed e USING (request_id, ranked_before)
            JOIN raw_exposures x ON x.filename = e.filename AND x.file_row_number = e.file_row_number
            WHERE s.time_ms >= $since
            GROUP BY ALL
        )
        QUALIFY sum(len(positions)) OVER (PARTITION BY version ORDER BY place, file_row_number) <= $most
        """,
        {"since": since_ms, "most": most},
    )
    return [name for (name,) in database.execute("SELECT DISTINCT version FROM chosen ORDER BY 1").fetchall()]


def _served(
    database: duckdb.DuckDBPyConnection, log: Path, files: Sequence[Path], result: Drift
) -> dict[tuple[str, str, str], np.ndarray]:
    """The values of every feature by version, group and name."""
    pieces: dict[tuple[str, str, str], list[np.ndarray]] = {}
    unreadable: dict[str, int] = {}
    for exposure in exposures_in(database, "chosen", ["positions"], files):
        try:
            layouts = layouts_of(log, exposure["schema"])
        except LogError as error:
            unreadable[str(error)] = unreadable.get(str(error), 0) + 1
            continue
        for group, feature, values in _values(exposure, layouts):
            pieces.setdefault((exposure["version"], group, feature), []).append(values)
    result.notes += [f"{count:,} exposures are not compared: {reason}" for reason, count in unreadable.items()]
    return {name: np.concatenate(_of_one_kind(parts)) for name, parts in pieces.items()}


def _of_one_kind(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The values that have the shape of the newest: a schema may have changed in the middle."""
    shape = parts[-1].shape[1:]
    return [values for values in parts if values.shape[1:] == shape]


def _values(exposure: Exposure, layouts: Layouts) -> Iterator[tuple[str, str, np.ndarray]]:
    """Group, name and values of each feature at an exposure's seen positions: numbers and norms of vectors `[n]`,
    keys `[n, values]`.
    """
    places = np.array(exposure["positions"], dtype=np.int64) - 1 - (exposure.get("ranked_before") or 0)
    items = len(exposure["item_ids"])
    of_request = np.zeros(len(places), dtype=np.int64)
    for group, layout, count, at in (
        ("user", layouts.user, 1, of_request),
        ("context", layouts.context, 1, of_request),
        ("item", layouts.item, items, places),
        ("candidate", layouts.candidate, items, places),
    ):
        rows = entity_rows(exposure, layout, group, count)
        for feature in layout.features:
            if isinstance(feature, Vector):
                yield group, feature.name, layout.measured(feature, rows.numerics)[at]
                continue
            values = rows.values(feature)[at]
            single = not isinstance(feature, Numeric | MultiCategorical)
            yield group, feature.name, values[:, None] if single else values
    numbers = counters_of(exposure, layouts)[places] if layouts.schema.counters else np.zeros((len(places), 0))
    for column, counter in enumerate(layouts.schema.counters):
        yield COUNTERS, counter.name, numbers[:, column]
    if layouts.behaviour is not None:
        length = len(exposure["behaviour_times"] or b"") // 8
        yield BEHAVIOURS, "length", np.full(len(places), float(length))


def _trained(registry: Path | None, model: str, version: str, result: Drift) -> Trained:
    """What the bundle of a version knows; a note says what it lacks."""
    nothing = Trained({}, None)
    if registry is None:
        result.notes.append(f"version {version}: not compared with training, because no --registry is named")
        return nothing
    folder = folder_of(registry, Target(name=model, version=version))
    try:
        manifest = read_manifest(folder)
        keys = known_keys(folder, manifest)
    except (BundleRejected, OSError, ValueError) as error:
        result.notes.append(f"version {version}: its bundle cannot be read from {registry}: {error}")
        return nothing
    histograms = manifest.provenance.get(HISTOGRAMS)
    if not histograms:
        note = "its bundle has no histograms of training (it is of an earlier release), so there is no PSI"
        result.notes.append(f"version {version}: {note}")
    return Trained({(h["group"], h["feature"]): h for h in histograms or ()}, keys, without_rows(manifest))


def without_rows(manifest: Manifest) -> frozenset[Place]:
    """The features whose ids have no embedding row of their own: hashed ones, and those that only rules read."""
    recipe = manifest.provenance.get("recipe")
    if not recipe:  # of no run
        return frozenset()
    hashed = recipe["model"]["embedding"].get("hash_buckets") or {}
    places: set[Place] = set()
    for group in ("user", "item", "context", "candidate"):
        trained = {feature["name"] for feature in recipe["features"].get(group) or ()}
        for feature in manifest.feature_schema.group(group):
            if isinstance(feature, Numeric | Vector):
                continue
            if feature.name not in trained or feature.vocabulary_name in hashed:
                places.add((group, feature.name))
    return frozenset(places)


def known_keys(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """The keys that a bundle's graph has a row for, int64 `[V]`; None for a graph without a lookup."""
    for tensor in manifest.external:
        if tensor.name == PAIRS:
            pairs = np.memmap(folder / TABLES_FILE, tensor.dtype, "r", tensor.offset, tensor.shape)
            return np.array(pairs[::2])
    graph = onnx.load(folder / GRAPH_FILE, load_external_data=False).graph
    for node in graph.node:
        if node.op_type == "LabelEncoder":
            tensors = [attribute.t for attribute in node.attribute if attribute.name == "keys_tensor"]
            return np.array(numpy_helper.to_array(tensors[0])) if tensors else None
    return None
