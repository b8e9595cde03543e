"""Tests that the console in the package is what its source builds, is small, and names no other site."""

import gzip
import re
from pathlib import Path

import pytest
from node_programs import node
from running_service import ROOT

BUILT = ROOT / "service" / "console" / "static"
MOST_BYTES = 200_000  # compressed
# Names of XML, which no browser asks for.
NAMESPACE = re.compile(r"http://www\.w3\.org/[\w/]+")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.tools
def test_the_built_files_are_those_of_the_source(source: Path) -> None:
    node("npm", "run", "build", folder=source)
    built = contents(source.parent / "service" / "console" / "static")
    assert built == contents(BUILT), "run `npm ci && npm run build` in console"


@pytest.mark.tools
def test_its_own_tests_pass(source: Path) -> None:
    printed = node("node", "--test", "--test-reporter=tap", "test/*.test.ts", folder=source)
    assert int(re.findall(r"^# pass (\d+)$", printed, re.MULTILINE)[0]) >= 9


def test_it_is_small_and_asks_no_other_site() -> None:
    files = contents(BUILT)
    assert sum(len(gzip.compress(content)) for content in files.values()) <= MOST_BYTES
    for name, content in files.items():
        text = NAMESPACE.sub("", content.decode())
        assert re.findall(r"https?://|//cdn|\burl\(", text) == [], name
    page = files["index.html"].decode()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {"./console.js", "./console.css", "./icon.svg"}
    assert "<script>" not in page
    assert "style=" not in page
