"""Fixtures of the loop's tests."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from changed_rankings import changed_rankings


@pytest.fixture(scope="session")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Rankings of one user while one thing after another changes: see `changed_rankings`."""
    with changed_rankings(tmp_path_factory.mktemp("changing")) as served:
        yield served
