"""Owns report.html: one self-contained page that shows how a run went and how good it is."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from models.kinds import PROBABILITY, reported_kind
from models.recipe import Recipe
from models.reports import plots
from models.training.outcome import REPORT_FILE

STYLE = """
:root { --ink: #1b2430; --soft: #5c6b7d; --line: #dfe5ec; --paper: #ffffff; --ground: #f4f6f9; --accent: #2563a8; --warn: #8a4b00; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { margin: 0; font-size: 27px; letter-spacing: -0.01em; }
h2 { margin: 0 0 12px; font-size: 17px; }
p { margin: 4px 0 0; color: var(--soft); }
section { margin-top: 20px; padding: 20px 22px; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { padding: 14px 16px; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
.tile b { display: block; font-size: 22px; font-weight: 620; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th { padding: 6px 10px; border-bottom: 1px solid var(--line); color: var(--soft); font-weight: 550; text-align: right; white-space: nowrap; }
td { padding: 7px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
td.text { text-align: left; white-space: normal; }
code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.muted { color: var(--soft); }
.warning { margin-top: 20px; padding: 12px 18px; background: #fff6e6; border: 1px solid #f0d9b0; border-radius: 10px; color: var(--warn); }
.warning ul { margin: 4px 0 0; padding-left: 20px; }
svg { display: block; width: 100%; height: auto; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--accent); }
"""


def write_report(out: Path, recipe: Recipe, metrics: Mapping[str, Any], history: Mapping[str, Any]) -> None:
    """Write `report.html` into a run's folder."""
    body = [
        f"<h1>{escape(recipe.name)}</h1><p>{escape(recipe.description)}</p>",
        _tiles(metrics),
        _warnings(metrics["warnings"]),
        _section("Test metrics", _metrics_table(metrics["parts"]["test"]) + _top_table(metrics["parts"]["test"])),
        _section("Losses", plots.losses(history, metrics["best"]["step"])),
        _section(f"Loss weighting: {recipe.training.weighting.type}", plots.weighting(history)),
        _section("Validation AUC", plots.validation(history, metrics["best"]["step"])),
        _section(
            "Calibration on the test part", plots.calibration(metrics["parts"]["test"]["outputs"]) + CALIBRATION_NOTE
        ),
        _section("What the calibration changed", _calibration(metrics)),
        _gates(metrics["gates"], history),
        _section("Validation metrics", _metrics_table(metrics["parts"]["validation"])),
        _section("Reading speed", _reading(metrics["speed"])),
        _section("Where it comes from", _provenance(metrics)),
    ]
    page = "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>\n"
    page += f"<title>{escape(recipe.name)} - training report</title><style>{STYLE}</style></head>\n<body><main>{''.join(body)}</main></body></html>\n"
    (out / REPORT_FILE).write_text(page)


CALIBRATION_NOTE = """<p>Each dot is one of up to 15 equally large groups of impressions, ordered by predicted probability; on the dashed line
the prediction equals the share of positives. Both axes are logarithmic.</p>"""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _tiles(metrics: Mapping[str, Any]) -> str:
    tiles = []
    for name, m in metrics["parts"]["test"]["outputs"].items():
        if headline := reported_kind(m).headline(m):
            tiles.append((_number(headline[1]), f"test {headline[0]} {name}"))
    best = metrics["best"]
    speed = metrics["speed"]
    tiles.append(
        (
            f"{best['epoch']:.2f}",
            f"best epoch of {metrics['epochs']:.2f}" + (", stopped early" if metrics["stopped_early"] else ""),
        )
    )
    tiles.append((f"{speed['seconds_per_epoch']:.1f} s", "per epoch"))
    return (
        "<div class=tiles>"
        + "".join(f"<div class=tile><b>{escape(v)}</b><span>{escape(k)}</span></div>" for v, k in tiles)
        + "</div>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return (
        "<div class=warning><b>Look at this</b><ul>"
        + "".join(f"<li>{escape(w)}</li>" for w in warnings)
        + "</ul></div>"
    )


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table of plain text; the first `text_columns` are set left."""
    head_html = "".join(
        f"<th style='text-align:left'>{escape(h)}</th>" if i < text_columns else f"<th>{escape(h)}</th>"
        for i, h in enumerate(head)
    )
    cells = [
        "".join(
            f"<td class=text>{escape(c)}</td>" if i < text_columns else f"<td>{escape(c)}</td>" for i, c in enumerate(r)
        )
        for r in rows
    ]
    return f"<div class=scroll><table><tr>{head_html}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table></div>"


def _scored(part: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Title and metrics of a part's probabilities: outputs on their own label and space, then the extra evaluations."""
    return [*((name, m) for name, m in part["outputs"].items() if "top" in m), *_extras(part)]


def _extras(part: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Title and metrics of the scores that are evaluated on another label."""
    return [(f"{m['score']} held against {m['label']}", m | {"space": "impression"}) for m in part["extra"]]


def _metrics_table(part: Mapping[str, Any]) -> str:
    """A table per kind of task, of the kind's own columns; the extra evaluations stand with the probabilities."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    rows = [reported_kind(m).report_row(name, m) for name, m in part["outputs"].items()]
    rows += [PROBABILITY.report_row(title, m) for title, m in _extras(part)]
    for row in rows:
        tables.setdefault(tuple(row), []).append(list(row.values()))
    return "".join(_table(head, rows, _text_columns(head)) for head, rows in tables.items())


def _text_columns(head: Sequence[str]) -> int:
    """How many columns at the front hold text."""
    return 1 + sum(title in ("label", "among") for title in head)


def _top_table(part: Mapping[str, Any]) -> str:
    scored = [(title, m) for title, m in _scored(part) if m["top"]]
    if not scored:
        return ""
    shares = [f"{top['share']:.1%}" for top in scored[0][1]["top"]]
    head = ["recall / precision / F1 at the top, %", *shares]
    rows = [
        [title, *(f"{100 * t['recall']:.2f} / {100 * t['precision']:.2f} / {100 * t['f1']:.2f}" for t in m["top"])]
        for title, m in scored
    ]
    return f"<details open><summary>The top of the list</summary>{_table(head, rows)}</details>"


def _calibration(metrics: Mapping[str, Any]) -> str:
    fitted = metrics["calibration"]
    if not fitted:
        return ""
    rows = []
    for name, before in fitted["ece_before"]["test"].items():
        of_validation = fitted["ece_before"]["validation"][name], metrics["parts"]["validation"]["outputs"][name]["ece"]
        figures = (*of_validation, before, metrics["parts"]["test"]["outputs"][name]["ece"])
        rows.append([name, *(_number(value) for value in figures)])
    table = _table(["ECE", "validation, before", "after", "test, before", "after"], rows)
    factors = [
        [name, f["label"], f["space"], f"{f['positives']:,} / {f['impressions']:,}", _map_of(f)]
        for name, f in fitted["factors"].items()
    ]
    table += _table(["factor", "label", "among", "positives / impressions", "its map in logits"], factors, 3)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in fitted["negative_sampling"].items())
    sampled = f" Corrected for sampled negatives, share kept: {rates}." if rates else ""
    note = f"Fitted on the {fitted['fitted_on']} part ({fitted['method']}) and part of the graph; a chain multiplies calibrated factors.{sampled}"
    return f"{table}<p>{escape(note)}</p>"


def _map_of(factor: Mapping[str, Any]) -> str:
    if "slope" in factor:
        return f"{factor['slope']:.3f} x {factor['intercept']:+.3f}"
    if "knots" in factor:
        return f"{len(factor['knots'])} knots"
    return f"none: {factor['skipped']}" if "skipped" in factor else "none"


def _gates(gates: Mapping[str, Sequence[float]], history: Mapping[str, Any]) -> str:
    if not gates:
        return ""
    note = "<p>Mean weight that each head's gate gives each expert on the validation part; right, the same while training.</p>"
    return _section("Gate utilisation", plots.gates(gates, history) + note)


def _reading(speed: Mapping[str, Any]) -> str:
    reading = speed["reading"]
    text = f"<p>Training ran at {speed['rows_per_s']:,.0f} rows/s, reading included.</p>"
    if reading is None:
        return text
    rows = [
        ["the training loop, reading its files", f"{reading['rows_per_s_files']:,.0f}"],
        ["the same batches held ready in memory", f"{reading['rows_per_s_memory']:,.0f}"],
        ["ratio (0.9 or more is wanted)", f"{reading['ratio']:.3f}"],
    ]
    return _table(["by the median step", f"rows/s over {reading['steps']} steps"], rows) + text


def _provenance(metrics: Mapping[str, Any]) -> str:
    data = metrics["data"]
    impressions = metrics["data"]["impressions"]
    behaviours = data["behaviours"]
    parts = ", ".join(f"{part} {impressions[part]:,}" for part in ("train", "validation", "test"))
    rows = [
        [
            "architecture",
            f"{metrics['architecture']} ({', '.join(f'{k}: {v}' for k, v in metrics['composition'].items())})",
        ],
        ["parameters", ", ".join(f"{group} {n:,}" for group, n in metrics["parameters"].items())],
        [
            "weights selected on",
            f"mean validation AUC of {', '.join(metrics['selected_on'])}: {metrics['best']['score']:.4f}",
        ],
        ["seed, threads", f"{metrics['seed']}, {metrics['threads']}"],
        ["impressions", f"{parts}; in no part {impressions['unused']:,}"],
        ["users, items", f"{data['users']['rows']:,}, {data['items']['rows']:,}"],
        [
            "behaviours",
            "none"
            if behaviours is None
            else f"{behaviours['rows']:,} ({behaviours['repeated']:,} repeated ones dropped)",
        ],
        ["embedding rows", f"{data['embedding_rows']:,}"],
        ["data", f"{data['folder']}, encoded as {data['hash']}"],
        *[[f"SHA-256 of {name}", digest] for name, digest in data["tables"].items()],
        ["versions", ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())],
    ]
    return (
        "<div class=scroll><table>"
        + "".join(
            f"<tr><td class=text>{escape(k)}</td><td class=text><code>{escape(v)}</code></td></tr>" for k, v in rows
        )
        + "</table></div>"
    )
