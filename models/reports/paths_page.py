"""Writes the figures of an event log: Markdown, and an HTML page with a picture of the rates."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.files.writing import write_whole
from models.reports.page import Sheet, render, sheet
from models.reports.paths import Columns, Decomposition, Paths, PathsError, decompositions, read_events, read_paths
from models.reports.plots import COLOURS

HEAD = [
    "action",
    "action / click",
    "conversion / click",
    "conversion / action",
    "conversion / click without",
    "coverage",
    "removed",
    "explained",
]
SERIES = (
    ("conversion / click", "conversion_rate"),
    ("action / click", "action_rate"),
    ("conversion / action", "conversion_after_action"),
    ("conversion / click without", "conversion_without_action"),
)
MOST_ACTIONS = 5
MOST_ROUTES = 12


def sheets(choices: Sequence[Decomposition], paths: Paths, routes: int) -> list[Sheet]:
    """The decompositions and the most frequent routes."""
    rows = []
    for d in choices:
        rates = [d.action_rate, d.conversion_rate, d.conversion_after_action, d.conversion_without_action]
        shares = [d.coverage, d.removed, d.explained]
        rows.append([d.actions, *(f"{rate:.2%}" for rate in rates), *(f"{share:.1%}" for share in shares)])
    pairs = len(paths.converted)
    frequent = [
        [str(route), f"{count:,}", f"{count / pairs:.2%}"] for route, count in paths.routes.head(routes).items()
    ]
    return [sheet(HEAD, rows), sheet(["route", "pairs", "share"], frequent)]


def note(paths: Paths) -> str:
    return (
        f"{len(paths.converted):,} clicked pairs; {paths.unclicked:,} pairs have an action or a conversion, but no "
        "click in the log."
    )


def markdown(choices: Sequence[Decomposition], paths: Paths, routes: int = MOST_ROUTES) -> str:
    """The decompositions and the most frequent routes as two tables."""
    first, second = sheets(choices, paths, routes)
    return "\n".join([*_lines(first), "", note(paths), "", *_lines(second)]) + "\n"


def _lines(table: Sheet) -> list[str]:
    rows = [f"| {' | '.join(row)} |" for row in table.rows]
    return [f"| {' | '.join(table.head)} |", "|---" * len(table.head) + "|", *rows]


def page(choices: Sequence[Decomposition], paths: Paths, title: str) -> str:
    """A self-contained HTML page: the picture, then the tables."""
    tables = sheets(choices, paths, MOST_ROUTES)
    return render("paths.html", title=title, chart=chart(choices), sheets=tables, note=note(paths))


def chart(choices: Sequence[Decomposition]) -> dict[str, Any]:
    """Data of the picture: a row per set of actions, with its four rates as positions 0 to 1 on a logarithmic axis."""
    rates = [[getattr(d, name) for _, name in SERIES] for d in choices]
    lowest = float(np.floor(np.log10(min((rate for row in rates for rate in row if rate > 0), default=0.1))))

    def place(rate: float) -> float:
        return float((np.log10(rate) - lowest) / max(1.0, -lowest))

    rows = []
    for d, of_row in zip(choices, rates, strict=True):
        dots = [
            {"at": place(rate), "colour": colour, "title": f"{label} {rate:.3%}"}
            for (label, _), colour, rate in zip(SERIES, COLOURS, of_row, strict=False)
            if rate > 0
        ]
        rows.append({"name": d.actions, "dots": dots})
    ticks = [{"at": place(10.0**power), "text": f"{10.0**power:.4g}"} for power in range(int(lowest), 1)]
    return {"rows": rows, "ticks": ticks, "series": list(zip([label for label, _ in SERIES], COLOURS, strict=False))}


def measure_paths(
    events: Path, columns: Columns, click: str, actions: Sequence[str], conversion: str, out: Path | None
) -> str:
    """Return the table as Markdown; also write `out`.md, .csv and .html if `out` is given. Raises PathsError."""
    if len(actions) > MOST_ACTIONS:
        raise PathsError(
            f"--actions: {len(actions)} actions have too many sets to compare; give at most {MOST_ACTIONS}"
        )
    log, incomplete = read_events(events, columns)
    paths = read_paths(log, columns, click, actions, conversion)
    choices = decompositions(paths)
    text = markdown(choices, paths)
    if incomplete:
        text += f"\n{incomplete:,} events without a user, item, action or time were left out.\n"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out.with_suffix(".md"), text.encode())
        table = pd.DataFrame([asdict(d) for d in choices]).to_csv(index=False)
        write_whole(out.with_suffix(".csv"), table.encode())
        report = page(choices, paths, f"Paths from {click} to {conversion}")
        write_whole(out.with_suffix(".html"), report.encode())
    return text
