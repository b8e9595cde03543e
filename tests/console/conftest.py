"""Fixtures of the console's tests: its source with packages, a service with two workers, a tab of a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_programs import node
from running_service import ROOT

from service.sample.embedded_redis import EmbeddedRedis
from tests.console.pages import Console
from tests.console.served import Served, sample_service


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the console's source with its packages."""
    folder = tmp_path_factory.mktemp("tree") / "console"
    shutil.copytree(ROOT / "console", folder, ignore=shutil.ignore_patterns("node_modules"))
    node("npm", "ci", "--no-audit", "--no-fund", folder=folder)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with EmbeddedRedis() as redis, sample_service(tmp_path_factory.mktemp("console"), redis) as running:
        running.rank(users=60)
        yield running


@pytest.fixture
def console(browser: Any, served: Served) -> Iterator[Console]:
    """The console in a tab of its own. Fails if it breaks its security policy, asks another site, or raises."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = Console(context.new_page(), served)
    yield opened
    context.close()
    assert opened.faults == []
