"""Measures the quality of what a log's rankings predicted, and writes the document, the page and the gauges."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.files.writing import write_whole
from loop.errors import LogError
from loop.join.join import model_of, section_of
from loop.join.labels import label, open_database, read_log
from loop.join.report import check_rate
from loop.join.report import measure as measure_join
from loop.log.hours import hour_files
from loop.quality import figures
from loop.quality.alarms import alarms
from loop.quality.drift import drift
from loop.quality.gauges import exposition
from loop.quality.page import page, remarks
from loop.quality.rows import DAY_MS, SeenRows, measured_tasks, seen_rows
from models.recipe import Recipe
from tables.log_records import RecordKind

FORMAT = 1


def measure(
    log: Path,
    recipe: Recipe,
    registry: Path | None = None,
    model: str | None = None,
    days: float = 28,
    memory_mb: int = 1024,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the last `days` of a compacted log. Gives the document of `quality.json`. Raises LogError.

    The bundles of the `registry` say what the training part's features were.
    """
    section = section_of(recipe)
    files = {kind: hour_files(log, kind) for kind in RecordKind}
    if not files[RecordKind.EXPOSURES]:
        raise LogError(f"{log} has no hour with exposures; run `funnelrank compact --log {log}` first")
    tasks = measured_tasks(recipe)
    if not tasks:
        raise LogError("no task of the recipe is the probability of a label of 0 or 1, so there is nothing to measure")
    with (
        tempfile.TemporaryDirectory(prefix="funnelrank-quality-") as scratch,
        open_database(Path(scratch), memory_mb) as database,
    ):
        read_log(database, files)
        name = model_of(database, model)
        label(database, section, name)
        joined = measure_join(database, section)
        check_rate(joined, section.min_join_rate)
        rows = seen_rows(database, section, tasks, days)
        since_ms = rows.watermark_ms - round(days * DAY_MS)
        served = drift(database, log, files[RecordKind.EXPOSURES], registry, name, since_ms)
    return {
        "format": FORMAT,
        "model": name,
        "watermark_ms": rows.watermark_ms,
        "days": days,
        "impressions": len(rows),
        "join_rate": joined.join_rate,
        "cells": figures.cells(rows, tasks, seed),
        "by_day": figures.by_day(rows, tasks, seed),
        "by_position": figures.by_position(rows, tasks),
        "invariants": figures.invariants(rows, tasks),
        "alarms": alarms(rows, tasks),
        "drift": served.features,
        "drift_notes": served.notes,
        "empty_days": figures.empty_days(rows),
        "not_logged": _not_logged(rows),
    }


def _not_logged(rows: SeenRows) -> list[str]:
    """The tasks of the recipe that no version in the log has."""
    return [name for name, scores in rows.scores.items() if not (scores == scores).any()]


def write(document: Mapping[str, Any], out: Path) -> list[Path]:
    """Write the page to `out`, the document and the gauges beside it; every file is replaced whole. Gives the files."""
    contents = {
        out: page(document),
        out.with_suffix(".json"): json.dumps(document, indent=1, allow_nan=False) + "\n",
        out.with_suffix(".prom"): exposition(document),
    }
    for path, content in contents.items():
        write_whole(path, content.encode())
    return list(contents)


def lines(document: Mapping[str, Any]) -> list[str]:
    """The document as text: a line per version and task."""
    text = [f"{document['model']}: {document['impressions']:,} impressions in the last {document['days']:g} days"]
    for cell in document["cells"]:
        if cell["scene"] != figures.ALL or cell["arm"] != figures.ALL:
            continue
        head = f"{cell['version']} {cell['task']}: "
        if cell.get("why"):
            continue
        auc = "-" if cell["auc"] is None else f"{cell['auc']:.4f}"
        rates = f"predicted {cell['predicted']:.5f}, observed {cell['observed']:.5f}, COPC {cell['copc']:.3f}"
        text.append(f"{head}{cell['impressions']:,} matured, {rates}, ECE {cell['ece']:.5f}, AUC {auc}")
    text += [f"look at this: {remark}" for remark in remarks(document)]
    return text
