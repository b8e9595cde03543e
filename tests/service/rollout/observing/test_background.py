"""Tests background work: it has a lower priority than the event loop, runs one job at a time, and has a time limit."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from service.rollout.observing.background import Background, BudgetedThread

ON_LINUX = sys.platform == "linux"
NICE = """
import asyncio, os, sys, threading
from service.rollout.observing.background import Background
here = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
os.nice(int(sys.argv[1]))
if os.getuid() == 0:
    os.setuid(65534)
print(here(), asyncio.run(Background().run(here)))
"""


async def test_the_event_loop_goes_first() -> None:
    """The lowest priority is a niceness of 19, which a process may have from its start."""
    loop = os.getpriority(os.PRIO_PROCESS, 0)
    background = await Background().run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert background == (min(loop + 10, 19) if ON_LINUX else loop)


@pytest.mark.parametrize("added", [5, 15, 19])
def test_background_work_of_a_nice_process_is_nicer_than_it(added: int) -> None:
    """A user without rights may not lower a niceness, not even that of a thread."""
    done = subprocess.run([sys.executable, "-c", NICE, str(added)], capture_output=True, text=True)
    loop = min(os.getpriority(os.PRIO_PROCESS, 0) + added, 19)
    background = min(loop + 10, 19) if ON_LINUX else loop
    assert (done.returncode, done.stdout) == (0, f"{loop} {background}\n"), done.stderr


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
