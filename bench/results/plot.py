"""Plots cost against candidates: one self-contained HTML page with SVG."""

import math
from collections.abc import Mapping
from pathlib import Path

_WIDTH = 620
_HEIGHT = 360
_LEFT = 60
_BOTTOM = 40
_TOP = 20
_COLOURS = {"raw": "#2a7f62", "empty": "#888888", "service": "#1f4e9c", "peer": "#c0392b"}


def write_plot(path: Path, tables: Mapping[str, Mapping[tuple[int, int], Mapping[str, float]]]) -> None:
    """Write an SVG plot. `tables`: model -> (candidates, behaviours) -> CPU milliseconds by contender."""
    charts = [
        _chart(f"{model}, L = {length}", {c: costs for (c, n), costs in table.items() if n == length})
        for model, table in tables.items()
        for length in sorted({n for _, n in table})
    ]
    style = "body{font:14px sans-serif;margin:2em} svg{margin:1em}"
    title = "CPU milliseconds per request against candidates"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style>"
        f"<h1>{title}</h1>{''.join(charts)}\n"
    )


def _chart(title: str, by_count: Mapping[int, Mapping[str, float]]) -> str:
    counts = sorted(by_count)
    values = [v for costs in by_count.values() for v in costs.values()]
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))

    # Both axes are logarithmic.
    def x(count: int) -> float:
        span = math.log10(counts[-1] / counts[0]) or 1
        return _LEFT + (_WIDTH - _LEFT - 90) * math.log10(count / counts[0]) / span

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (math.log10(value) - low) / (high - low)

    parts = [f'<text x="{_LEFT}" y="14" font-weight="bold">{title}</text>']
    # A line and a label for each power of ten, and a label for each count.
    for power in range(low, high + 1):
        at = y(10**power)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 90}" y1="{at}" y2="{at}" stroke="#ddd"/>'
            f'<text x="6" y="{at + 4}">{10**power:g} ms</text>'
        )
    parts += [f'<text x="{x(c) - 8}" y="{_HEIGHT - 16}">{c}</text>' for c in counts]
    # A line for each series, with its name at the end.
    for name, colour in _COLOURS.items():
        points = [(x(c), y(by_count[c][name])) for c in counts if name in by_count[c]]
        if not points:
            continue
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{points[-1][0] + 6:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{name}</text>')
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img">{"".join(parts)}</svg>'
