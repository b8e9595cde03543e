"""Copies the pages of the repository into one folder, as Zensical reads them, with links that fit there and diagrams
drawn.
"""

import posixpath
import re
import shutil
from pathlib import Path

from tools.docs_site.diagrams import with_pictures

ROOT = Path(__file__).resolve().parents[2]
# Pages outside of docs/; on the site they are under repository/.
OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "clients/python/README.md",
    "clients/typescript/README.md",
    "deploy/README.md",
    "models/README.md",
    "sample/README.md",
)
# A link, a picture of docs/ in a page outside of it, or a page in backticks, as `docs/rules.md`: plain text on GitHub,
# a link here.
_LINK = re.compile(
    r"(?<!!)\[(?P<words>[^\]\[]*)\]\((?P<address>[^)\s:#]+)(?P<section>#[\w-]*)?\)"
    r"|!\[(?P<picture>[^\]]*)\]\((?P<source>docs/[^)\s:#]+)\)"
    r"|(?<![\[`])`(?P<named>(?:[\w-]+/)*[\w-]+\.md)`(?!\])"
)
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def stage(folder: Path, root: Path = ROOT) -> None:
    """Copy docs/ and the pages of OUTSIDE into the new `folder`.

    A link between pages leads to the copy; the text of a link to any other file stays, without the link. Raises
    DiagramError for a diagram that cannot be drawn.
    """
    shutil.copytree(root / "docs", folder, ignore=shutil.ignore_patterns("*.json", "*.ipynb"))
    for page in OUTSIDE:
        target = folder / "repository" / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((root / page).read_text())
    pages = {str(page.relative_to(root)) for page in (root / "docs").rglob("*.md")} | set(OUTSIDE)
    for page in sorted(pages):
        copy = folder / staged(page)
        copy.write_text(with_pictures(with_links(copy.read_text(), page, pages)))


def staged(page: str) -> str:
    """Return the place on the site of a page of the repository."""
    return page.removeprefix("docs/") if page.startswith("docs/") else f"repository/{page}"


def with_links(text: str, page: str, pages: set[str]) -> str:
    """Return the text of `page` with links that fit the site; code blocks stay as they are."""

    def to(target: str) -> str:
        return posixpath.relpath(staged(target), posixpath.dirname(staged(page)) or ".")

    def link(match: re.Match[str]) -> str:
        if match["source"] is not None:
            return f"![{match['picture']}]({to(match['source'])})"
        address = match["named"] or match["address"]
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(page), address))
        if match["named"] is None:
            return f"[{match['words']}]({to(beside)}{match['section'] or ''})" if beside in pages else match["words"]
        # In backticks: from the root of the repository, or beside the page.
        target = next((place for place in (address, beside) if place in pages), page)
        return match[0] if target == page else f"[{match[0]}]({to(target)})"

    parts = _FENCE.split(text)
    # Every second part is a code block.
    return "".join(part if i % 2 else _LINK.sub(link, part) for i, part in enumerate(parts))
