"""Checks a built site: every internal link has a target, and nothing is loaded from another site."""

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that a browser loads from; `a` is only followed.
_LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}
# Relations of a `link` that a browser does not load.
_NOT_LOADED = {"canonical", "prev", "next", "author"}


class _Page(HTMLParser):
    """The ids, links and loaded resources of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.has_mermaid = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a":
            self.ids.add(values.get("name", ""))
            self.links.append(values.get("href", ""))
        self.has_mermaid |= "mermaid" in values.get("class", "").split()
        address = values.get(_LOADED.get(tag, ""), "")
        if address and values.get("rel") not in _NOT_LOADED:
            self.loaded.append(address)


def faults_of(site: Path) -> list[str]:
    """Return one line per fault of the site of one version, none if it has none."""
    return [
        f"{page.relative_to(site)}: {fault}" for page in sorted(site.rglob("*.html")) for fault in _faults(page, site)
    ]


def _faults(page: Path, site: Path) -> Iterator[str]:
    parsed = _parsed(page)
    if parsed.has_mermaid:
        yield "a Mermaid diagram, which the theme would load a script for"
    for address in parsed.loaded:
        if _is_external(address):
            yield f"loads {address}"
    for address in (*parsed.links, *parsed.loaded):
        # The page of a missing address does not know its depth: its addresses begin at the root.
        if address and not _is_external(address) and page.name != "404.html":
            fault = _missing(page, address, site)
            if fault:
                yield fault


def _is_external(address: str) -> bool:
    return bool(urlsplit(address).scheme or urlsplit(address).netloc)


def _missing(page: Path, address: str, site: Path) -> str:
    """Return what lacks for a link, or nothing."""
    parts = urlsplit(address)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(site.resolve()):
        return f"links to {address}, outside of the site"
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return f"links to {address}, which does not exist"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _parsed(target).ids:
        return f"links to {address}, a section that does not exist"
    return ""


@cache
def _parsed(page: Path) -> _Page:
    parsed = _Page()
    parsed.feed(page.read_text())
    return parsed
