"""Runs a worker's background work: following the documents, publishing metrics, stopping on a signal."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Any

from service.api.services import Lifecycle
from service.callers.callers import Callers
from service.fusion import FusionError, read_profiles
from service.metrics.metrics import Metrics
from service.rollout.following.follower import Follower
from service.settings import Settings

log = logging.getLogger("funnelrank")
_COLLECT_AFTER = (10_000, 10, 10)  # new objects; the default is 700, which a few requests make
_SWITCH_SECONDS = 0.0005  # the default is 0.005, which a ranking beside a load would wait several times over


@contextlib.asynccontextmanager
async def background_work(
    settings: Settings, follower: Follower, callers: Callers, lifecycle: Lifecycle, metrics: Metrics
) -> AsyncIterator[None]:
    """Run the background work as long as the worker serves; a fault of it does not stop the worker."""
    metrics.workers.set(1)
    await callers.step()
    await first_step(follower)
    keep_pauses_short()
    tasks = [
        asyncio.create_task(follower.follow()),
        asyncio.create_task(callers.follow()),
        asyncio.create_task(metrics.publish()),
        asyncio.create_task(check_fusion_file(settings, metrics)),
    ]
    with drains_on_signal(lifecycle, settings.drain_ms):
        yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await callers.write_uses()
    follower.close()
    metrics.close()


async def first_step(follower: Follower) -> None:
    """Load the live versions. After a fault the worker stays alive and not ready, and tries again at the next step."""
    try:
        await follower.step()
    except Exception:
        log.exception("the first reading of the rollout failed; it is tried again")


async def check_fusion_file(settings: Settings, metrics: Metrics) -> None:
    """Report a fusion file that has become unusable since the start. The profiles of the start stay in use."""
    if settings.fusion_file is None:
        return
    try:
        await asyncio.to_thread(read_profiles, settings.fusion_file)
    except (FusionError, OSError) as error:
        log.error(
            "the profiles of the last start stay in use, since %s cannot be used: %s", settings.fusion_file, error
        )
        metrics.document_errors.labels("fusion_file").set(1)


def keep_pauses_short() -> None:
    """Keep the pauses of the interpreter short.

    Objects created at the start live as long as the process, so the garbage collector need not visit them again. While
    a thread loads a version, the event loop gets the interpreter back within half a millisecond.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)


@contextlib.contextmanager
def drains_on_signal(lifecycle: Lifecycle, drain_ms: int) -> Iterator[None]:
    """On SIGTERM or SIGINT, let /readyz fail for `drain_ms` before the server stops listening.

    Meanwhile load balancers choose other servers. A second SIGINT ends the wait.
    """
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def drain(number: int, frame: FrameType | None) -> None:
        if lifecycle.draining and number == signal.SIGTERM:
            return
        wait = 0.0 if lifecycle.draining else drain_ms / 1000
        lifecycle.draining = True
        stop = before[signal.Signals(number)]
        loop.call_soon_threadsafe(loop.call_later, wait, stop, number, frame)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, drain)
    except ValueError:  # not the main thread, as in tests: the caller stops the server in its own way
        before.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
