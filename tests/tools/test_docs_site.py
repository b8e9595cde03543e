"""Tests the docs site: it builds without a warning, its links lead somewhere, and it asks no other site."""

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.docs_site.__main__ import main
from tools.docs_site.links import faults_of
from tools.docs_site.staging import ROOT, stage, with_links

PAGES = {"README.md", "docs/index.md", "docs/rules.md", "docs/decisions/0001-wire.md", "models/README.md"}


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/index.md", "[r](rules.md#pins)", "[r](rules.md#pins)"),
        ("docs/index.md", "[m](../models/README.md)", "[m](repository/models/README.md)"),
        ("docs/decisions/0001-wire.md", "[r](../rules.md)", "[r](../rules.md)"),
        ("models/README.md", "[r](../docs/rules.md)", "[r](../../rules.md)"),
        ("README.md", "see `docs/rules.md`", "see [`docs/rules.md`](../rules.md)"),
        ("README.md", "![picture](docs/images/a.png)", "![picture](../images/a.png)"),
        ("docs/index.md", "[code](../service/app.py)", "code"),
        ("docs/index.md", "![picture](images/a.png) [web](https://example.org/)", None),
        ("docs/index.md", "```sh\ncat [x](../models/README.md)\n```\n", None),
    ],
)
def test_links_between_pages_fit_the_site(page: str, text: str, expected: str | None) -> None:
    assert with_links(text, page, PAGES) == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="b.html#here"></a><a href="#top" id="top"></a><a href="https://example.org/x"></a>', None),
        ('<a href="c.html"></a>', "links to c.html, which does not exist"),
        ('<a href="b.html#there"></a>', "links to b.html#there, a section that does not exist"),
        ('<a href="../a.html"></a>', "links to ../a.html, outside of the site"),
        ('<img src="https://example.org/a.png">', "loads https://example.org/a.png"),
        ('<script src="//example.org/a.js"></script>', "loads //example.org/a.js"),
        ('<link rel="stylesheet" href="https://example.org/a.css">', "loads https://example.org/a.css"),
        ('<pre class="mermaid">', "a Mermaid diagram, which the theme would load a script for"),
    ],
)
def test_a_fault_of_a_page_is_named(tmp_path: Path, html: str, fault: str | None) -> None:
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h1 id="here">B</h1>')
    assert faults_of(tmp_path) == ([] if fault is None else [f"a.html: {fault}"])


def test_every_page_of_the_docs_is_in_the_navigation(tmp_path: Path) -> None:
    stage(tmp_path / "docs")
    pages = {str(page.relative_to(tmp_path / "docs")) for page in (tmp_path / "docs").rglob("*.md")}
    named = set(re.findall(r'"([\w/.-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert pages - named == {"repository/sample/README.md"}, "list the page in zensical.toml"
    assert named <= pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with two versions, the second built after the first."""
    out = tmp_path_factory.mktemp("site")
    assert main(["--out", str(out), "--version", "0.9.0"]) == 0
    assert main(["--out", str(out), "--version", "0.10.0"]) == 0
    return out


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.tools
def test_it_builds_and_its_links_have_targets(site: Path) -> None:
    assert (site / "0.10.0" / "operations" / "index.html").is_file()
    assert len(list((site / "0.10.0").rglob("*.html"))) > 30
    assert faults_of(site / "0.10.0") == []
    assert (site / "0.10.0" / "architecture" / "index.html").read_text().count('<svg class="diagram"') == 2
    assert "0.10.0/" in (site / "index.html").read_text()


@pytest.mark.tools
def test_a_browser_searches_lists_the_versions_and_asks_no_other_site(address: str, browser: Any) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/")
    page.wait_for_url("**/0.10.0/")
    page.goto(f"{address}/0.10.0/architecture/")
    page.locator(".md-version a[href*='/0.9.0/']").wait_for(state="attached")
    page.locator(".md-search__button").first.click()
    page.get_by_role("combobox").fill("canary")
    page.get_by_role("listbox").get_by_text("Roll out a version").wait_for()
    page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
