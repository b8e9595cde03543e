"""An empty bucket of every kind of object store, for the tests of registries in buckets."""

from collections.abc import Iterator

import pytest
from object_dialects import DIALECTS
from object_store import ObjectStore, empty_bucket


@pytest.fixture(params=DIALECTS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty bucket of each protocol, which this process and those that it starts find by their environment."""
    with empty_bucket(monkeypatch, request.param) as store:
        yield store
