"""Draws the Mermaid diagrams of the docs as SVG in the page, so that the site needs no script for them.

A page keeps the Mermaid text, which GitHub draws. Only what the docs use is understood: `flowchart TD` and lines of the
form `a --> b`.
"""

import re
from html import escape
from itertools import count

from tools.docs_site.layers import Arrow, Layout, placed

_BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ARROW = re.compile(r"([\w.-]+) --> ([\w.-]+)")
_HEAD = "flowchart TD"
# Sizes in pixels: of a letter, of a box around a name, and between boxes and layers.
_LETTER = 8.0
_PADDING = 12.0
_HEIGHT = 30.0
_GAP = 18.0
_LAYER = 74.0
_MARGIN = 4.0
_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
_STYLE = "max-width: 100%; height: auto; font: 13px ui-monospace, monospace"
_ARROW_HEAD = (
    'viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="currentColor"/>'
)


class DiagramError(Exception):
    """A diagram that cannot be drawn; the message names the line."""


def with_pictures(text: str) -> str:
    """Return the text of a page with its diagrams as SVG. Raises DiagramError."""
    numbers = count(1)
    return _BLOCK.sub(lambda block: drawn(arrows_of(block[1]), f"arrow-{next(numbers)}"), text)


def arrows_of(source: str) -> list[Arrow]:
    """Return the arrows of a diagram. Raises DiagramError for a line of another form."""
    head, *lines = [line.strip() for line in source.strip().splitlines()]
    if head != _HEAD:
        raise DiagramError(f"a diagram begins with '{head}', and only '{_HEAD}' is drawn")
    arrows = []
    for line in lines:
        parts = _ARROW.fullmatch(line)
        if parts is None:
            raise DiagramError(f"a diagram has the line '{line}', and only 'a --> b' is drawn")
        arrows.append((parts[1], parts[2]))
    if not arrows:
        raise DiagramError("a diagram has no arrow")
    return arrows


def drawn(arrows: list[Arrow], marker: str = "arrow") -> str:
    """Return an SVG element, without blank lines, at which Markdown would end it.

    `marker` is the id of its arrow head, which must occur once in a page.
    """
    names = sorted({name for arrow in arrows for name in arrow})
    widths = {name: len(name) * _LETTER + 2 * _PADDING for name in names}
    layout = placed(arrows, widths, _GAP)
    width = max(layout.centres[name] + widths.get(name, 0.0) / 2 for name in layout.centres) + 2 * _MARGIN
    height = (len(layout.layers) - 1) * _LAYER + _HEIGHT + 2 * _MARGIN
    tops = {name: depth * _LAYER + _MARGIN for depth, layer in enumerate(layout.layers) for name in layer}
    words = escape("; ".join(f"{source} to {target}" for source, target in sorted(arrows)))
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    lines = [
        f'<svg class="diagram" role="img" aria-label="Arrows: {words}" {size} style="{_STYLE}" {_NAMESPACE}>',
        f'<defs><marker id="{marker}" {_ARROW_HEAD}</marker></defs>',
    ]
    lines += [_line(arrow, layout, tops, marker) for arrow in layout.ways]
    lines += [_box(name, layout.centres[name] + _MARGIN, tops[name], widths[name]) for name in names]
    return "\n".join([*lines, "</svg>"])


def _line(arrow: Arrow, layout: Layout, tops: dict[str, float], marker: str) -> str:
    """One arrow: from the lower edge of a box, past the bends, to the upper edge of the other box."""
    source, *others = layout.ways[arrow]
    x = layout.centres[source] + _MARGIN
    y = tops[source] + _HEIGHT
    path = f"M{x:.1f} {y:.1f}"
    for name in others:
        to_x = layout.centres[name] + _MARGIN
        to_y = tops[name]
        half = (y + to_y) / 2
        path += f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}"
        x = to_x
        y = to_y
        if name != arrow[1]:
            y += _HEIGHT
            path += f"L{x:.1f} {y:.1f}"
    ends = f'data-from="{escape(arrow[0])}" data-to="{escape(arrow[1])}"'
    return f'<path {ends} d="{path}" fill="none" stroke="currentColor" opacity="0.55" marker-end="url(#{marker})"/>'


def _box(name: str, centre: float, top: float, width: float) -> str:
    return (
        f'<g data-name="{escape(name)}"><rect x="{centre - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{_HEIGHT:.0f}" rx="5" fill="none" stroke="currentColor"/>'
        f'<text x="{centre:.1f}" y="{top + _HEIGHT / 2 + 4.5:.1f}" text-anchor="middle" fill="currentColor">'
        f"{escape(name)}</text></g>"
    )
