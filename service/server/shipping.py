"""Keeps the shipper process of an exposure log running while the service does."""

import contextlib
import logging
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from service.exposures.ship_process import READY

log = logging.getLogger("funnelrank.exposures")
_LOOK_SECONDS = 1.0
_START_SECONDS = 30.0
_RESTART_SECONDS = 5.0
_LONGEST_RESTART_SECONDS = 300.0
_STOP_SECONDS = 10.0  # in which the last files are sent; what is left is sent after the next start


class ShipperNotStarted(Exception):  # noqa: N818 - a state that is reported, not a programming error
    """The shipper cannot use its target; the message says why."""


@contextmanager
def shipping(folder: Path, uri: str, level: str) -> Iterator[None]:
    """Send the closed files of `folder` to the target `uri` during the block, and the last ones after it.

    A shipper that ends is started again. Raises ShipperNotStarted.
    """
    command = [sys.executable, "-m", "service.exposures.ship_process", str(folder), uri, level]
    first = _started(command)
    stopping = Event()
    keeper = Thread(target=_keep, args=(command, first, stopping), name="shipper-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stopping.set()
        keeper.join()


def _keep(command: list[str], process: subprocess.Popen[bytes] | None, stopping: Event) -> None:
    """Start another shipper when one has ended; at the end, let the last one finish.

    One that ends again and again is started ever more rarely, because each start costs a second of the processor.
    """
    started_at = time.monotonic()
    restart_at = 0.0
    pause = _RESTART_SECONDS
    while not stopping.wait(_LOOK_SECONDS):
        if process is not None and process.poll() is not None:
            log.error(
                "the shipper of the exposure log has ended (exit code %s); another one starts", process.returncode
            )
            _stop(process)
            process = None
            if time.monotonic() - started_at > _LONGEST_RESTART_SECONDS:
                pause = _RESTART_SECONDS
        if process is None and time.monotonic() >= restart_at:
            started_at = time.monotonic()
            restart_at = started_at + pause
            pause = min(2 * pause, _LONGEST_RESTART_SECONDS)
            try:
                process = _started(command)
            except ShipperNotStarted as error:
                log.error("the shipper of the exposure log was not started: %s", error)
    if process is not None:
        _stop(process)


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a shipper that could open its target. Raises ShipperNotStarted."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise ShipperNotStarted(f"no process can be started ({error})") from None
    assert process.stdout is not None
    line = ""
    if select.select([process.stdout], [], [], _START_SECONDS)[0]:
        line = process.stdout.readline().decode(errors="replace").strip()
    if line != READY:
        process.kill()
        _stop(process)
        raise ShipperNotStarted(line or "it gave no answer")
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the shipper's input, so that it sends the last files, and kill it if it takes too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        log.error("the last files of the exposure log were not sent in time; they are sent after the next start")
        process.kill()
        process.wait()
    process.stdout.close()
