"""Tests background work: it has a lower priority than the event loop, runs one job at a time, and has a time limit."""

import asyncio
import os
import sys
import threading
import time
from functools import partial

import pytest

from service.rollout.observing.background import Background, BudgetedThread

ON_LINUX = sys.platform == "linux"


async def test_the_event_loop_goes_first() -> None:
    loop = os.getpriority(os.PRIO_PROCESS, 0)
    background = await Background().run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert background > loop if ON_LINUX else background == loop


async def test_one_thing_at_a_time_and_errors_arrive() -> None:
    running: list[int] = []
    most: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        most.append(len(running))
        time.sleep(0.02)
        running.remove(number)
        return number

    def fails() -> None:
        raise ValueError("no such version")

    background = Background()
    results = await asyncio.gather(*(background.run(partial(work, n)) for n in range(5)))
    with pytest.raises(ValueError, match="no such version"):
        await background.run(fails)
    assert results == [0, 1, 2, 3, 4]
    assert max(most) == 1


async def test_work_that_hangs_is_given_up_and_the_next_begins() -> None:
    release = threading.Event()
    background = Background()
    try:
        with pytest.raises(TimeoutError):
            await background.run(release.wait, seconds=0.1)
        assert await background.run(lambda: 7) == 7
    finally:
        release.set()


def test_a_thread_with_a_budget_drops_what_does_not_fit() -> None:
    release = threading.Event()
    done: list[int] = []
    thread = BudgetedThread("test", share=1.0)
    try:
        assert thread.offer(lambda: done.append(int(release.wait())))
        taken = [thread.offer(lambda: done.append(1)) for _ in range(40)]
        assert 16 <= sum(taken) <= 17
        release.set()
        while len(done) < 1 + sum(taken):
            time.sleep(0.01)
    finally:
        release.set()
        thread.close()
