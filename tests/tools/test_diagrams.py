"""Tests that a drawn diagram has the arrows of its source and no others, which lead down between separate boxes."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.docs_site.diagrams import DiagramError, arrows_of, drawn, with_pictures
from tools.docs_site.staging import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
SOURCES = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
SVG = "{http://www.w3.org/2000/svg}"


def check(arrows: list[tuple[str, str]]) -> None:
    """Check a picture against its arrows by what a reader sees: texts, boxes, and where lines begin and end."""
    picture = drawn(arrows)
    assert "\n\n" not in picture
    root = ElementTree.fromstring(picture)
    boxes = {}
    for group in root.iter(f"{SVG}g"):
        name = group.findtext(f"{SVG}text") or ""
        box = group.find(f"{SVG}rect")
        assert box is not None
        boxes[name] = [float(box.get(field, "")) for field in ("x", "y", "width", "height")]
    assert set(boxes) == {name for arrow in arrows for name in arrow}
    ends = []
    for line in root.findall(f"{SVG}path"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", line.get("d", ""))]
        begins = [name for name, (x, y, w, h) in boxes.items() if near(numbers[:2], x + w / 2, y + h)]
        stops = [name for name, (x, y, w, _) in boxes.items() if near(numbers[-2:], x + w / 2, y)]
        assert numbers[1] < numbers[-1], "an arrow leads up"
        ends += [(one, other) for one in begins for other in stops]
    assert sorted(ends) == sorted(set(arrows))
    for (left, top, width, height), (x, y, w, h) in combinations(boxes.values(), 2):
        assert left + width <= x or x + w <= left or top + height <= y or y + h <= top, "two boxes overlap"


def near(point: list[float], x: float, y: float) -> bool:
    return abs(point[0] - x) < 0.2 and abs(point[1] - y) < 0.2


@pytest.mark.parametrize("source", SOURCES)
def test_the_rooms_are_drawn_as_the_page_has_them(source: str) -> None:
    check(arrows_of(source))


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] < pair[1]), min_size=1))
@settings(max_examples=60, deadline=None)
def test_any_arrows_without_a_cycle_are_drawn(pairs: set[tuple[int, int]]) -> None:
    check([(f"room_{a}", f"room_{b}") for a, b in pairs])


def test_a_page_keeps_everything_else() -> None:
    page = with_pictures(PAGE)
    assert len(SOURCES) == 2
    assert page.count("<svg") == 2
    assert "mermaid" not in page
    assert len(set(re.findall(r'marker id="([\w-]+)"', page))) == 2
    assert re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL) == re.sub(r"```mermaid.*?```", "", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("sequenceDiagram\n a ->> b", "begins with 'sequenceDiagram'"),
        ("flowchart TD\n a -->|uses| b", "the line 'a -->|uses| b'"),
        ("flowchart TD", "no arrow"),
    ],
)
def test_what_cannot_be_drawn_is_named(source: str, fault: str) -> None:
    with pytest.raises(DiagramError, match=re.escape(fault)):
        arrows_of(source)
