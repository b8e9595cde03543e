"""Tests the reference pages of settings, routes, metrics and manifest: current, and complete."""

import re
from pathlib import Path

import pytest

from service.bundle.manifest import Manifest
from service.settings import Settings, variable_of
from tools.reference import FOLDER, PAGES, main


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make reference`"


def test_every_setting_and_key_is_listed() -> None:
    settings = (FOLDER / "settings.md").read_text()
    assert [name for name in Settings.model_fields if f"| `{variable_of(name)}` |" not in settings] == []
    manifest = (FOLDER / "manifest.md").read_text()
    assert [name for name in Manifest.model_fields if f"| `{name}` |" not in manifest] == []


def test_the_routes_are_listed_with_their_errors() -> None:
    page = (FOLDER / "http.md").read_text()
    rank = page.partition("## POST /rank\n")[2].partition("\n## ")[0]
    assert "Body: `RankRequest`" in rank
    assert re.search(r"^\| 503 \| .*`overloaded`", rank, re.MULTILINE)


def test_the_command_writes_the_pages(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert {page.name for page in tmp_path.iterdir()} == set(PAGES)
