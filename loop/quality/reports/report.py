"""Measures the quality of what a log's rankings predicted, and writes the document, the page and the gauges."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.files.writing import write_whole
from loop.quality import figures
from loop.quality.alarms import alarms
from loop.quality.drift import drift
from loop.quality.opening import labelled_log
from loop.quality.reports.gauges import exposition
from loop.quality.reports.page import page, remarks
from loop.quality.rows import DAY_MS, SeenRows
from models.recipe import Recipe

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
    """Measure the last `days` of a log. Gives the document of `quality.json`. Raises LogError.

    The bundles of the `registry` say what the training part's features were.
    """
    with labelled_log(log, recipe, model, memory_mb) as opened:
        rows = opened.seen(days)
        since_ms = rows.watermark_ms - round(days * DAY_MS)
        served = drift(opened.database, log, opened.exposures, registry, opened.model, since_ms)
    tasks = opened.tasks
    return {
        "format": FORMAT,
        "model": opened.model,
        "watermark_ms": rows.watermark_ms,
        "days": days,
        "impressions": len(rows),
        "join_rate": opened.join_rate,
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
