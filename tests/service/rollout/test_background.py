"""Owns the promises of the background thread: it steps back behind the event loop, and does one thing at a time."""

import asyncio
import os
import sys
import threading
import time

import pytest

from service.rollout.background import Background

ON_LINUX = sys.platform == "linux"


def test_the_event_loop_goes_first() -> None:
    async def go() -> tuple[int, int]:
        background = Background()
        try:
            return os.getpriority(os.PRIO_PROCESS, 0), await background.run(
                lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            )
        finally:
            background.close()

    loop, background = asyncio.run(go())
    assert background > loop if ON_LINUX else background == loop


def test_one_thing_at_a_time_and_errors_arrive() -> None:
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

    async def go() -> list[int]:
        background = Background()
        try:
            found = await asyncio.gather(*(background.run(work, n) for n in range(5)))
            with pytest.raises(ValueError, match="no such version"):
                await background.run(fails)
            return found
        finally:
            background.close()

    assert asyncio.run(go()) == [0, 1, 2, 3, 4]
    assert max(most) == 1
