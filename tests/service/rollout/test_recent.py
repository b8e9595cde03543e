"""Tests the recent requests: bounded, by schema, and readable from a thread while the event loop adds more."""

import sys
import threading
from collections.abc import Iterator

import pytest

from service.rollout.recent import Assembly, RecentRequests


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Let threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_newest_requests_of_a_schema_are_kept_in_order() -> None:
    recent = RecentRequests()
    for number in range(300):
        recent.add(Assembly("even" if number % 2 == 0 else "odd", str(number), {}, ["1"]))
    assert [int(one.user_id) for one in recent.of("even")] == list(range(44, 300, 2))
    recent.add(Assembly("even", "large", {}, ["1"] * 20_000))
    assert [one.user_id for one in recent.of("even")] == ["large"]


@pytest.mark.usefixtures("eager_switches")
def test_a_thread_reads_while_requests_are_added() -> None:
    recent = RecentRequests()
    stop = threading.Event()
    failures: list[RuntimeError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                recent.of("schema")
            except RuntimeError as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100_000):
        recent.add(Assembly("schema", str(number), {}, ["1"]))
    stop.set()
    reader.join()
    assert failures == []
