"""Keeps a helper process running while the service does.

A helper writes `ready` or a problem as the first line of its output, and ends when its input does: when the service
stops or is killed.
"""

import contextlib
import logging
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

from service.exposures.ship_process import READY

log = logging.getLogger("funnelrank.serve")
_LOOK_SECONDS = 1.0
_START_LOOK_SECONDS = 0.2
_RESTART_SECONDS = 5.0


class HelperNotStarted(Exception):  # noqa: N818 - a state that is reported, not a programming error
    """The helper cannot do its work; the message says why."""


@dataclass(frozen=True)
class Helper:
    """A helper: its module with arguments, how log lines call it, and how long its start and its end may take.

    `unfinished` is the log line about a helper that did not end in time; None: it may be killed at any moment. One that
    ends again and again is started ever more rarely, up to every `longest_restart_seconds`, because each start costs a
    second of the processor.
    """

    title: str
    arguments: tuple[str, ...]
    start_seconds: float
    stop_seconds: float
    longest_restart_seconds: float
    unfinished: str | None = None


@contextmanager
def running(helper: Helper) -> Iterator[None]:
    """Run a helper during the block; one that ends is started again. Raises HelperNotStarted."""
    stopping = Event()
    first = _started(helper, stopping)
    keeper = Thread(target=_keep, args=(helper, first, stopping), name="helper-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stopping.set()
        keeper.join()


def _keep(helper: Helper, process: subprocess.Popen[bytes] | None, stopping: Event) -> None:
    """Start another helper when one has ended; at the end, let the last one finish."""
    started_at = time.monotonic()
    restart_at = 0.0
    pause = _RESTART_SECONDS
    while not stopping.wait(_LOOK_SECONDS):
        if process is not None and process.poll() is not None:
            log.error("%s has ended (exit code %s); another one starts", helper.title, process.returncode)
            _stop(helper, process)
            process = None
            if time.monotonic() - started_at > helper.longest_restart_seconds:
                pause = _RESTART_SECONDS
        if process is None and time.monotonic() >= restart_at:
            started_at = time.monotonic()
            restart_at = started_at + pause
            pause = min(2 * pause, helper.longest_restart_seconds)
            try:
                process = _started(helper, stopping)
            except HelperNotStarted as error:
                if not stopping.is_set():
                    log.error("%s was not started: %s", helper.title, error)
    if process is not None:
        _stop(helper, process)


def _started(helper: Helper, stopping: Event) -> subprocess.Popen[bytes]:
    """Start a helper that is ready. Raises HelperNotStarted, also if `stopping` is set before it is ready."""
    command = [sys.executable, "-m", *helper.arguments]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise HelperNotStarted(f"no process can be started ({error})") from None
    assert process.stdout is not None
    line = ""
    end = time.monotonic() + helper.start_seconds
    # A start may take minutes, and the service must not wait for it when it stops.
    while not stopping.is_set() and time.monotonic() < end:
        if select.select([process.stdout], [], [], _START_LOOK_SECONDS)[0]:
            line = process.stdout.readline().decode(errors="replace").strip()
            break
    if line != READY:
        process.kill()
        _stop(helper, process)
        raise HelperNotStarted(line or "it gave no answer")
    return process


def _stop(helper: Helper, process: subprocess.Popen[bytes]) -> None:
    """End the helper's input, so that it finishes, and kill it if it takes too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(helper.stop_seconds)
    except subprocess.TimeoutExpired:
        if helper.unfinished is not None:
            log.error("%s", helper.unfinished)
        process.kill()
        process.wait()
    process.stdout.close()
