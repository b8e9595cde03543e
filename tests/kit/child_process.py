"""Runs programs beside a test, and ends them whatever happens in the test."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any


def end(process: "subprocess.Popen[Any]", number: int = signal.SIGTERM, seconds: float = 60) -> int:
    """Send a signal to a process that still runs, and return its exit code.

    Raises TimeoutExpired if it has not ended after `seconds`; it is killed then.
    """
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def child(command: Sequence[Any], **options: Any) -> "AbstractContextManager[subprocess.Popen[Any]]":
    """Start a command at once, as Popen does with the same options, for a block.

    After the block its pipes are closed, and it is ended.
    """
    return _ended(subprocess.Popen(command, **options))


@contextmanager
def _ended(process: "subprocess.Popen[Any]") -> Iterator["subprocess.Popen[Any]"]:
    with process:
        try:
            yield process
        finally:
            end(process)
