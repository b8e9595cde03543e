"""What every test shares: async tests run on asyncio, as the service does."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests."""
    return "asyncio"
