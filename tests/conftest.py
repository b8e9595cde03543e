"""Fixtures of all tests: the event loop of async tests, and the check that no module leaves a socket or file open."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests."""
    return "asyncio"


def pytest_collection_finish() -> None:
    """Exempt what the imports have made from garbage collection, which becomes a hundredfold faster."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """A socket or file that is not closed fails a test of its own module.

    One in a reference cycle would be found by a later collection, and fail whichever test runs then.
    """
    yield
    gc.collect()
