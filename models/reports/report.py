"""Writes report.html: one self-contained page that shows the course of a run and its quality."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.files.writing import write_whole
from models.kinds import reported_kind
from models.kinds.base import figure
from models.recipe import Recipe
from models.reports import plots
from models.reports.figures import (
    ablation_sheets,
    baseline_sheets,
    calibration_sheets,
    feature_sheets,
    metrics_sheets,
    top_sheets,
    training_sheets,
)
from models.reports.page import ReportSection, Sheet, pictures, render, sheet
from models.training.outcome import REPORT_FILE, start_line

INTERVALS = (
    "Below a figure is its 95 % interval: the users of the part were drawn again with replacement 200 times, all "
    "impressions of a user together. Metrics of order are means over {unit}s; where scores tie they are the mean over "
    "all orders of the tied impressions, and a list whose labels are all alike does not count."
)
CALIBRATION = (
    "Each dot is one of up to 15 equally large groups of impressions, ordered by predicted probability; on the dashed "
    "line the prediction equals the share of positives. Both axes are logarithmic."
)
BASELINES = (
    "Untuned models of scikit-learn on the recipe's own columns of features, fitted on {rows:,} training "
    "impressions; they read no behaviour sequence. Shown order is that of the log, where the recipe names the "
    "position. The gain has a 95 % interval: the same users are drawn for both models."
)
ABLATION = (
    "The change of each figure on {impressions:,} test impressions when the values of a group are exchanged between "
    "impressions (permutation). A change near 0 means that the model gets nothing from the group."
)
FEATURES = (
    "Drift is the population stability index against the training part, over the deciles of a number or the most "
    "frequent ids: below 0.1 is little, above 0.25 large."
)
GATES = "Mean weight that each head's gate gives each expert on the validation part; right, the same while training."


def write_report(out: Path, recipe: Recipe, metrics: Mapping[str, Any], history: Mapping[str, Any]) -> None:
    """Write `report.html` into a run's folder."""
    values = {"recipe": recipe, "tiles": _tiles(metrics), "warnings": metrics["warnings"]}
    sections = [*_quality(metrics), *_training(recipe, metrics, history), *_background(metrics)]
    title = f"{recipe.name} - training report"
    write_whole(out / REPORT_FILE, render("report.html", title=title, sections=sections, **values).encode())


def _quality(metrics: Mapping[str, Any]) -> list[ReportSection]:
    """The quality section of the report."""
    parts = metrics["parts"]
    test = parts["test"]
    baselines = list(baseline_sheets(metrics))
    ablation = list(ablation_sheets(metrics))
    if baselines:
        baselines_note = [BASELINES.format(rows=metrics["baselines"]["rows"])]
    else:
        baselines_note = []
    ablation_note = [ABLATION.format(impressions=metrics["ablation"]["impressions"])] if ablation else []
    return [
        ReportSection("Test metrics", [*metrics_sheets(test), INTERVALS.format(unit=test["grouped_by"])]),
        ReportSection("Baselines", [*baselines, *baselines_note]),
        ReportSection("The top of the list", [*top_sheets(test)]),
        ReportSection("Groups of features", [*ablation, *ablation_note]),
    ]


def _training(recipe: Recipe, metrics: Mapping[str, Any], history: Mapping[str, Any]) -> list[ReportSection]:
    """The training section of the report."""
    best = metrics["best"]["step"]
    outputs = metrics["parts"]["test"]["outputs"]
    gates = metrics["gates"]
    return [
        ReportSection("Losses", pictures(plots.losses(history, best))),
        ReportSection(f"Loss weighting: {recipe.training.weighting.type}", pictures(plots.weighting(history))),
        ReportSection("Validation AUC", pictures(plots.validation(history, best))),
        ReportSection("Training against held-out parts", [*training_sheets(metrics)]),
        ReportSection("Calibration on the test part", [*pictures(plots.calibration(outputs)), CALIBRATION]),
        ReportSection("What the calibration changed", [*calibration_sheets(metrics), *_calibration_notes(metrics)]),
        ReportSection("Position tower", _position(metrics["position"])),
        ReportSection("Gate utilisation", [*pictures(plots.gates(gates, history)), GATES] if gates else []),
        ReportSection("Validation metrics", [*metrics_sheets(metrics["parts"]["validation"])]),
    ]


def _background(metrics: Mapping[str, Any]) -> list[ReportSection]:
    """The data section of the report: tables, reading speed, versions."""
    features = list(feature_sheets(metrics["features"]))
    return [
        ReportSection("Features by part", [*features, FEATURES] if features else []),
        ReportSection("Reading speed", [*_reading(metrics["speed"])]),
        ReportSection("Where it comes from", [_provenance(metrics)]),
    ]


def _tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    tiles = []
    for name, m in metrics["parts"]["test"]["outputs"].items():
        if headline := reported_kind(m).headline(m):
            tiles.append((figure(headline[1]), f"test {headline[0]} {name}"))
        if m.get("gauc"):
            tiles.append((figure(m["gauc"]["value"]), f"test GAUC {name}"))
    best = metrics["best"]
    stopped = ", stopped early" if metrics["stopped_early"] else ""
    tiles.append((f"{best['epoch']:.2f}", f"best of {metrics['epochs']:.2f}{stopped}"))
    tiles.append((f"{metrics['speed']['seconds_per_epoch']:.1f} s", "per epoch"))
    return tiles


def _calibration_notes(metrics: Mapping[str, Any]) -> list[str]:
    fitted = metrics["calibration"]
    if not fitted:
        return []
    note = (
        f"Fitted on the {fitted['fitted_on']} part ({fitted['method']}) and part of the graph; a chain multiplies "
        "calibrated factors."
    )
    rates = ", ".join(f"{name} {rate:g}" for name, rate in fitted["negative_sampling"].items())
    return [note, f"Corrected for sampled negatives, share kept: {rates}."] if rates else [note]


def _position(position: Mapping[str, Any] | None) -> list[Any]:
    if position is None:
        return []
    return [part for curve in (position, *position.get("others", ())) for part in _position_of_head(curve)]


def _position_of_head(position: Mapping[str, Any]) -> list[Any]:
    spread = max(max(line["shift"]) - min(line["shift"]) for line in position["curve"])
    crossed = f", by {position['cross']}" if position["cross"] else ""
    note = (
        f"How much each value of {position['column']} shifts the logit of {position['head']} in training{crossed}: "
        f"a range of {spread:.2f}. The serving graph has the constant {position['constant']:.3f} "
        "(the dashed line) instead of the tower."
    )
    return [*pictures(plots.position(position)), note]


def _reading(speed: Mapping[str, Any]) -> list[Sheet | str]:
    reading = speed["reading"]
    text = f"Training ran at {speed['rows_per_s']:,.0f} rows/s, reading included."
    if reading is None:
        return [text]
    rows = [
        ["the training loop, reading its files", f"{reading['rows_per_s_files']:,.0f}"],
        ["the same batches in memory", f"{reading['rows_per_s_memory']:,.0f}"],
        ["ratio (target: 0.9 or more)", f"{reading['ratio']:.3f}"],
    ]
    return [sheet(["by the median step", f"rows/s over {reading['steps']} steps"], rows), text]


def _provenance(metrics: Mapping[str, Any]) -> Sheet:
    data = metrics["data"]
    impressions = data["impressions"]
    behaviours = data["behaviours"]
    parts = ", ".join(f"{part} {impressions[part]:,}" for part in ("train", "validation", "test"))
    composition = ", ".join(f"{k}: {v}" for k, v in metrics["composition"].items())
    seen = "none"
    if behaviours is not None:
        seen = f"{behaviours['rows']:,} ({behaviours['repeated']:,} repeated ones dropped)"
    rows = [
        ["architecture", f"{metrics['architecture']} ({composition})"],
        ["parameters", ", ".join(f"{group} {n:,}" for group, n in metrics["parameters"].items())],
        ["weights selected on", f"{', '.join(metrics['selected_on'])}, validation: {figure(metrics['best']['score'])}"],
        ["start of the weights", start_line(metrics)],
        ["seed, threads", f"{metrics['seed']}, {metrics['threads']}"],
        ["impressions", f"{parts}; in no part {impressions['unused']:,}"],
        ["users, items", f"{data['users']['rows']:,}, {data['items']['rows']:,}"],
        ["behaviours", seen],
        ["embedding rows", f"{data['embedding_rows']:,}"],
        ["data", f"{data['folder']}, encoded as {data['hash']}"],
        *[[f"SHA-256 of {name}", digest] for name, digest in data["tables"].items()],
        ["versions", ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())],
    ]
    return sheet(["", ""], rows, 2)
