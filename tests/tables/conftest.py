"""A Redis for the tests that compare the load with other readers."""

from collections.abc import Iterator

import pytest

from service.sample.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as started:
        yield started
