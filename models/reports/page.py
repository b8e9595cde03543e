"""Renders the HTML pages of reports from templates; a page is one file that loads nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from models.kinds.base import Cell

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Sheet:
    """A table: `head` and `rows` of text; the first `text_columns` are aligned left."""

    head: list[str]
    rows: list[list[Cell]]
    text_columns: int = 1


@dataclass(frozen=True)
class Picture:
    """An inline SVG."""

    svg: Markup


@dataclass(frozen=True)
class ReportSection:
    """`blocks` in order, of which a string is a paragraph; a section without blocks is left out."""

    title: str
    blocks: list[Sheet | Picture | str]


def sheet(head: list[str], rows: list[list[Any]], text_columns: int = 1) -> Sheet:
    """Make a table of values of any type."""
    cells = [[cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in row] for row in rows]
    return Sheet(head, cells, text_columns)


def pictures(svg: str) -> list[Sheet | Picture | str]:
    """Return an SVG as blocks; no block if it is empty."""
    # matplotlib draws the SVG and escapes its text.
    return [Picture(Markup(svg))] if svg else []  # nosec B704


def render(template: str, **values: Any) -> str:
    """Render the page of a template in this folder."""
    return _ENVIRONMENT.get_template(template).render(**values)
