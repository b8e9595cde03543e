"""Fixtures of all tests: the event loop of async tests, and the check that no module leaves a socket or file open."""

import gc
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from running_service import RECOVERIES

# By default Hypothesis fails an example that takes 200 ms, which on a busy machine any example may do.
settings.register_profile("funnelrank", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("funnelrank")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests."""
    return "asyncio"


def pytest_configure() -> None:
    """Have the processes that tests start end at Ctrl-C, also where these tests run in the background of a script.

    There SIGINT is ignored, and a process inherits that.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exempt the objects of imported modules from garbage collection, which becomes a hundred times faster."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """Fail a module's own test if it leaves a socket or file open.

    Otherwise a later collection would find one in a reference cycle, and fail whichever test runs then.
    """
    yield
    gc.collect()


def pytest_sessionfinish(session: Any) -> None:
    """Hand the recoveries that a process of pytest-xdist has measured to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["recoveries"] = RECOVERIES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    RECOVERIES.extend(getattr(node, "workeroutput", {}).get("recoveries", []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the time from each fault's end (or from its begin, if it does not end) to the first normal answer."""
    if RECOVERIES:
        terminalreporter.section("recovery, seconds")
    for fault, seconds in RECOVERIES:
        terminalreporter.write_line(f"{seconds:6.2f}  {fault}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright, which can be started once per process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox of chromium does not work for root, as whom continuous integration runs.
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        chromium = playwright.chromium.launch(**options)
        yield chromium
        chromium.close()
