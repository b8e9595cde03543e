"""Fits the calibration of a served version again, on the matured labels of its log, and publishes a new version.

Nothing is rolled out: the new bundle waits in the registry, and the gate of the rollout checks it like any other.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from export.bundle import Published, graph_scores, publish_run, served_schema
from export.parity import TOLERANCE
from export.publish import Sign
from features.schemas.rule_features import RuleFeatures
from features.statistics import relative_difference
from loop.errors import LogError
from loop.quality.maps import Described, applied, described, fitted, inverted, with_maps
from loop.quality.opening import labelled_log
from loop.quality.rows import MeasuredTask, SeenRows
from models.data.cache import DEFAULT_CACHE
from models.metrics.calibration import calibration_curve, expected_calibration_error, log_loss
from models.recipe import Recipe
from models.training.run import Run, open_run
from service.bundle.manifest import GOLDEN_FILE, Manifest
from service.bundle.registry import Target, folder_of
from service.bundle.verify import read_manifest

Method = Literal["platt", "isotonic"]
RECALIBRATION: Final = "recalibration"
FEWEST: Final = 200  # positives, and negatives, of a factor
_HELD_OUT: Final = 0.25  # the newest share of a factor's impressions, which judges the map
_EDGE: Final = 1e-7


@dataclass
class Recalibration:
    """What was published; by factor the figures of the held-out part, or the reason why its map stays as it was."""

    of: str
    factors: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: Published | None = None


def recalibrate(
    run_folder: Path,
    log: Path,
    recipe: Recipe,
    registry: Path,
    served: str,
    method: Method = "platt",
    days: float = 28,
    fewest: int = FEWEST,
    version: str | None = None,
    sign: Sign | None = None,
    cache: Path = DEFAULT_CACHE,
) -> Recalibration:
    """Fit the factors of the version `served` of a run on the last `days` of its log, and publish the result.

    A map is taken over if it lowers the log loss of the newest quarter of the labels, on which it was not fitted; it is
    then fitted on all. The new version has the precision of the served one; the `cache` then gives the labelled
    impressions on which a reduced graph is compared. Raises LogError if no map can be fitted, if the labels are too
    few, or if the run is another one.
    """
    run, manifest = _checked(open_run(run_folder), registry, served)
    with labelled_log(log, recipe, run.recipe.name) as opened:
        rows = opened.seen(days)
    result = Recalibration(manifest.label)
    # Fit every factor whose score was logged.
    maps: dict[str, Described] = {}
    for factor in run.ranker.factors:
        task = MeasuredTask(factor.name, factor.label, factor.space)
        present = described(run.ranker, factor.name)
        chosen, result.factors[factor.name] = _fit(rows, task, served, present, method, fewest)
        if chosen is not None:
            maps[factor.name] = chosen
    if not maps:
        reasons = "; ".join(f"{name}: {factor['kept_because']}" for name, factor in result.factors.items())
        raise LogError(f"nothing is published, because no factor can be calibrated again: {reasons}")
    # Publish the same weights with the new maps.
    with_maps(run.ranker, maps)
    complete = {factor.name: dict(described(run.ranker, factor.name)) for factor in run.ranker.factors}
    provenance = {
        "of": manifest.label,
        "method": method,
        "days": days,
        "watermark": datetime.fromtimestamp(rows.watermark_ms / 1000, UTC).isoformat(timespec="seconds"),
        "factors": result.factors,
        "maps": complete,
    }
    changed = replace(run, provenance=manifest.provenance | {RECALIBRATION: provenance})
    if manifest.reduction is None:
        result.published = publish_run(changed, registry, version, sign=sign)
    else:
        reduction = manifest.reduction
        result.published = publish_run(changed, registry, version, reduction.precision, reduction.max_loss, cache, sign)
    return result


def _checked(run: Run, registry: Path, served: str) -> tuple[Run, Manifest]:
    """The run with the maps and the rule features of a served version, and its manifest.

    Raises LogError if the run is another one.
    """
    folder = folder_of(registry, Target(name=run.recipe.name, version=served))
    manifest = read_manifest(folder)
    if earlier := manifest.provenance.get(RECALIBRATION):
        with_maps(run.ranker, earlier["maps"])
    run = _with_rule_features(run, manifest)
    another = LogError(f"the run is not that of {manifest.label}: it scores the bundle's golden request differently")
    if manifest.fingerprint != served_schema(run).fingerprint:
        raise another
    with np.load(io.BytesIO((folder / GOLDEN_FILE).read_bytes()), allow_pickle=False) as golden:
        inputs = {n.removeprefix("inputs/"): golden[n] for n in golden.files if n.startswith("inputs/")}
        outputs = {n.removeprefix("outputs/"): golden[n] for n in golden.files if n.startswith("outputs/")}
    # The golden request of a reduced graph has the scores of that graph.
    scores = graph_scores(run, manifest.reduction.precision if manifest.reduction else "float32", inputs)
    if scores.keys() != outputs.keys():
        raise another
    if any(float(relative_difference(scores[name], outputs[name]).max()) > TOLERANCE for name in outputs):
        raise another
    return run, manifest


def _with_rule_features(run: Run, manifest: Manifest) -> Run:
    """The run with the features that were declared for the version, behind those of its graph."""
    trained_schema = run.encoding.schema
    schema = manifest.feature_schema
    added = RuleFeatures(
        item=schema.item[len(trained_schema.item) :],
        candidate=schema.candidate[len(trained_schema.candidate) :],
        counters=schema.counters[len(trained_schema.counters) :],
    )
    return replace(run, recipe=run.recipe.model_copy(update={"rule_features": added}))


def _fit(
    rows: SeenRows, task: MeasuredTask, served: str, present: Described, method: Method, fewest: int
) -> tuple[Described | None, dict[str, Any]]:
    """The new map of a factor, None if the present one stays; and its figures, or `kept_because`."""
    if task.name not in rows.scores:
        return None, {"kept_because": "the recipe has no such task"}
    scores = rows.scores[task.name]
    outcome = rows.outcome(task)
    used = (rows.version == served) & (outcome >= 0) & np.isfinite(scores)
    label = outcome[used].astype(np.float64)
    positives = int(label.sum())
    counted: dict[str, Any] = {"impressions": len(label), "positives": positives}
    if min(positives, len(label) - positives) < fewest:
        counts = f"{positives:,} positives and {len(label) - positives:,} negatives"
        return None, counted | {"kept_because": f"{counts} with a closed window, fewer than {fewest:,}"}
    # What the maps act on: the logits before the present map.
    p = np.clip(scores[used], _EDGE, 1 - _EDGE)
    before = np.log(p) - np.log1p(-p)
    logit = inverted(present, before)
    # Rows are oldest first: the newest judge.
    cut = round(len(label) * (1 - _HELD_OUT))
    trial = fitted(method, label[:cut], logit[:cut])
    judged = {"before": _figures(label[cut:], before[cut:])}
    judged["after"] = _figures(label[cut:], applied(trial, logit[cut:]))
    counted |= {"held_out": len(label) - cut, **judged}
    if judged["after"]["log_loss"] >= judged["before"]["log_loss"]:
        return None, counted | {"kept_because": "the new map does not lower the log loss of the newest labels"}
    return fitted(method, label, logit), counted


def _figures(label: np.ndarray, logit: np.ndarray) -> dict[str, float]:
    probability = 1 / (1 + np.exp(-logit))
    ece = expected_calibration_error(calibration_curve(label, probability))
    copc = float(label.sum() / probability.sum())
    return {"log_loss": log_loss(label, np.log(probability)), "ece": ece, "copc": copc}


def lines(result: Recalibration) -> Sequence[str]:
    """The recalibration as text."""
    text = [f"{result.of}: the figures are of the newest labels, on which no map was fitted"]
    for name, factor in result.factors.items():
        changes = _changes(factor)
        reason = f"; stays as it was: {factor['kept_because']}" if "kept_because" in factor else ""
        text.append(f"  {name}{changes}{reason}")
    if result.published is not None:
        text.append(f"published {result.published.folder}; nothing is rolled out")
    return text


def _changes(factor: Mapping[str, Any]) -> str:
    if "after" not in factor:
        return ""
    figures = [
        f"{title} {factor['before'][name]:.5f} -> {factor['after'][name]:.5f}"
        for title, name in (("COPC", "copc"), ("ECE", "ece"), ("log loss", "log_loss"))
    ]
    return f": {', '.join(figures)}"
