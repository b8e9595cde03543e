"""Runs work that no request waits for, in threads with a lower priority than the event loop."""

import asyncio
import ctypes
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from service.files import run_limited

log = logging.getLogger("funnelrank.background")
_NICENESS = 10  # about a tenth of a core where requests want all of it, so that a version still gets loaded
_MOST_NICENESS = 19
_QUEUE = 16
Result = TypeVar("Result")


def lower_priority() -> None:
    """Give this thread a lower priority than the event loop. Only Linux has priorities per thread."""
    if sys.platform == "linux":
        # The process may have been started with `nice`, and may not raise a thread above its own niceness.
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness, _MOST_NICENESS))


def trim_memory() -> None:
    """Return the memory of dropped versions from the allocator to the system, if the allocator is glibc's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Background:
    """Runs one job at a time, so that two versions are never loaded at once."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], Result], seconds: float | None = None) -> Result:
        """Return or raise what `work` returns or raises.

        Raises TimeoutError after `seconds`; the thread is then abandoned and the next job gets another one.
        """

        def run() -> Result:
            lower_priority()
            return work()

        async with self._turn:
            return await run_limited(run, seconds, "the registry")


class BudgetedThread:
    """Runs jobs in one thread that uses at most `share` of one core.

    A job is dropped if the queue is full or the budget is spent.
    """

    def __init__(self, name: str, share: float = 0.25) -> None:
        self.name = name
        self.share = share
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUE)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._free_at = 0.0

    def offer(self, job: Callable[[], None]) -> bool:
        """Queue a job; False if it is dropped. Never waits. The thread starts with the first job."""
        if perf_counter() < self._free_at:
            return False
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        return True

    def stop(self) -> None:
        """Drop the queued jobs and let the thread end after its present job; does not wait for it."""
        self._stopped.set()
        if self._thread is None:
            return
        while not self._jobs.empty():
            self._jobs.get_nowait()
        self._jobs.put(None)

    def close(self) -> None:
        """End the thread and drop the queued jobs."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        lower_priority()
        while (job := self._jobs.get()) is not None:
            started = perf_counter()
            try:
                job()
            except Exception:
                log.exception("a job of the %s failed", self.name)
            spent = perf_counter() - started
            pause = spent / self.share - spent
            self._free_at = perf_counter() + pause
            del job  # a replaced version is freed now, not with the next job
            self._stopped.wait(pause)
