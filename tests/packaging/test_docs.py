"""Tests the docs: the files they name and link to exist, and generated parts are current."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")])
PAGES += sorted([ROOT / "deploy" / "README.md", ROOT / "sample" / "README.md", *(ROOT / "clients").glob("*/README.md")])
# A path in backticks that begins with one of the project's folders. Readers look it up, so it must exist.
FOLDERS = (
    "batch|bench|clients|deploy|docs|export|features|funnelrank|loadtest|loop|models|sample|service|tables|tests|tools"
)
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)")
SECTION_LINK = re.compile(r"\]\(([^)#:\s]*)#([\w-]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
# The changelog names files of earlier versions.
HISTORY = {"CHANGELOG.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    if page.name in HISTORY:
        return
    text = page.read_text()
    # NAME is a placeholder for the reader's own name.
    named = {name for name in PATH.findall(text) if "NAME" not in name and not (ROOT / name).exists()}
    linked = {link for link in LINK.findall(text) if not (page.parent / link).exists()}
    assert named == set()
    assert linked == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_section_that_a_page_links_to_exists(page: Path) -> None:
    for link, section in SECTION_LINK.findall(page.read_text()):
        target = page.parent / link if link else page
        # As GitHub names sections.
        headings = [re.sub(r"[^\w -]", "", title.lower()) for title in HEADING.findall(target.read_text())]
        assert section in [title.strip().replace(" ", "-") for title in headings], (link, section)


def test_the_readme_shows_the_console_by_small_pictures() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((docs/images/console-[\w-]+\.png)\)", (ROOT / "README.md").read_text())
    assert pictures
    for path in (ROOT / "docs" / "images").iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 150_000, path


def test_the_drawing_of_the_rooms_is_current() -> None:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "tools" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    rooms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rooms)
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert rooms.with_diagrams(page) == page, "run `make rooms`"
