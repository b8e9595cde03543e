"""Owns the thread for work that no request waits for: loading, checking and trying versions. The system prefers the event loop to it."""

import asyncio
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_NICENESS = 10  # about a tenth of a core where requests want it all, so that a version still comes
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def step_back() -> None:
    """Give this thread a lower priority than the event loop's. Only Linux knows priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def give_back() -> None:
    """Return to the system what the allocator keeps of versions that have gone. Only glibc's keeps it, and has a call for that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Background:
    """One thread, so that two versions are never loaded at once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="background", initializer=step_back)

    async def run(self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """What `work` returns or raises."""
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    def close(self) -> None:
        """Nothing more is begun; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
