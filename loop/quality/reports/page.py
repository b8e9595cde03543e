"""Renders the page of a quality report."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from loop.quality.alarms import FALSE_ALARMS, threshold
from loop.quality.alarms import lines as alarm_lines
from loop.quality.figures import ALL
from loop.quality.reports import plots
from models.kinds.base import figure, measured
from models.metrics.bootstrap import DRAWS
from models.reports.page import ReportSection, Sheet, pictures, render, sheet
from models.reports.plots import calibration
from models.training.diagnostics.features import DRIFTED

_COLUMNS: Final = (
    ("predicted", "predicted"),
    ("observed", "observed"),
    ("COPC", "copc"),
    ("ECE", "ece"),
    ("log loss", "log_loss"),
    ("AUC", "auc"),
    ("GAUC", "gauc"),
)
_FIGURES = (
    "Only labels whose window is closed count. COPC is the sum of the labels divided by the sum of the predictions. "
    f"GAUC groups by user. Below a figure is its 95 % interval: users were drawn again with replacement {DRAWS} times."
)
_DRIFT = (
    f"PSI compares what was served with the training part; above {DRIFTED} is large. Unknown: the share of present ids "
    "that the model has no row for."
)
_VERDICTS: Final = {None: "too few labels", True: "alarm", False: "stable"}
_POSITIONS = "Observed rate by position; dashed: predicted. A rate that falls with the position is partly its effect."


def page(document: Mapping[str, Any]) -> str:
    """The report as one HTML file that loads nothing else."""
    tasks = list(dict.fromkeys(cell["task"] for cell in document["cells"]))
    totals = [cell for cell in document["cells"] if cell["scene"] == ALL and cell["arm"] == ALL]
    curves = {f"{cell['task']} {cell['version']}": cell for cell in totals if cell["calibration"]}
    by_day = [svg for task in tasks for svg in pictures(plots.days(document["by_day"], task))]
    positions = pictures(plots.positions(document["by_position"], tasks))
    sections = [
        ReportSection("Figures", [_cells(document["cells"]), _FIGURES]),
        ReportSection("By day", by_day),
        ReportSection("Calibration", pictures(calibration(curves))),
        ReportSection("Position", [*positions, _POSITIONS] if positions else []),
        ReportSection("The last week", [_alarms(document["alarms"]), _alarm_note(document["alarms"])]),
        ReportSection("Features", [*_drift(document["drift"]), *document["drift_notes"]]),
        ReportSection("The funnel", [*_invariants(document["invariants"])]),
    ]
    tiles = [
        (f"{document['impressions']:,}", "impressions"),
        (f"{document['days']:g}", "days"),
        ("–" if document["join_rate"] is None else f"{document['join_rate']:.1%}", "join rate"),
        (len({cell["version"] for cell in totals}), "versions"),
    ]
    title = f"{document['model']} - quality report"
    return render("quality.html", title=title, tiles=tiles, warnings=list(remarks(document)), sections=sections)


def remarks(document: Mapping[str, Any]) -> Iterator[str]:
    """What somebody should look at: alarms, drifted features, broken rules, empty days, tasks without figures."""
    yield from alarm_lines(document["alarms"])
    for cell in document["cells"]:
        if cell.get("why") and cell["scene"] == ALL:
            yield f"{cell['version']} {cell['task']}: {cell['why']} ({cell['open']:,} open)"
    for feature in document["drift"]:
        if feature["psi"] is not None and feature["psi"] > DRIFTED:
            yield f"{feature['version']}: {feature['group']} feature '{feature['feature']}' has drifted"
    for rule in document["invariants"]:
        if rule["broken"]:
            yield f"broken: {rule['rule']}, {rule['broken']:,} of {rule['impressions']:,}"
    for day in document["empty_days"]:
        yield f"nothing was seen on {day}"
    for task in document["not_logged"]:
        yield f"no version in the log has the task {task}"


def _cells(cells: Sequence[Mapping[str, Any]]) -> Sheet:
    rows: list[list[Any]] = []
    for cell in cells:
        names = [cell[name] or "–" for name in ("version", "task", "scene", "arm")]
        counts = [f"{cell[name]:,}" for name in ("impressions", "positives", "users", "open")]
        rows.append([*names, *counts, *(measured(cell, key) for _, key in _COLUMNS)])
    head = ["version", "task", "scene", "arm", "matured", "positives", "users", "open"]
    return sheet([*head, *(title for title, _ in _COLUMNS)], rows, 4)


def _alarms(alarms: Sequence[Mapping[str, Any]]) -> Sheet:
    rows: list[list[Any]] = []
    for alarm in alarms:
        verdict = _VERDICTS[alarm["alarm"]]
        counts = [f"{alarm['positives_before']:,}", f"{alarm['positives_week']:,}"]
        rows.append([alarm["version"], alarm["task"], *counts, figure(alarm["ratio"]), figure(alarm["z"]), verdict])
    return sheet(["version", "task", "positives before", "of the week", "COPC ratio", "z", ""], rows, 2)


def _alarm_note(alarms: Sequence[Mapping[str, Any]]) -> str:
    limit = threshold(sum(alarm["z"] is not None for alarm in alarms))
    return (
        f"The COPC of the last week divided by that of the days before. Beyond {limit:.2f} standard errors it is an "
        f"alarm: {FALSE_ALARMS:.0%} of the reports of a stable service have one."
    )


def _drift(features: Sequence[Mapping[str, Any]]) -> Iterator[Sheet | str]:
    rows: list[list[Any]] = []
    for f in sorted(features, key=lambda f: -(f["psi"] or 0)):
        shares = ["–" if f[name] is None else f"{f[name]:.1%}" for name in ("missing_training", "missing", "unknown")]
        psi = "–" if f["psi"] is None else f"{f['psi']:.3f}"
        rows.append([f["version"], f["group"], f["feature"], f"{f['impressions']:,}", *shares, psi])
    if rows:
        head = ["version", "group", "feature", "impressions", "missing in training", "missing", "unknown ids", "PSI"]
        yield sheet(head, rows, 3)
        yield _DRIFT


def _invariants(rules: Sequence[Mapping[str, Any]]) -> Iterator[Sheet]:
    rows = [[rule["rule"], rule["of"], f"{rule['impressions']:,}", f"{rule['broken']:,}"] for rule in rules]
    if rows:
        yield sheet(["rule", "of", "impressions", "broken"], rows, 2)
