"""Starts programs of this tree that end together."""

import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]


class Stopped(Exception):  # noqa: N818 - a state, not a mistake
    """SIGINT or SIGTERM arrived."""


def stop_at_signals() -> None:
    """Raise Stopped in the main thread at the first SIGINT or SIGTERM; later ones are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(
    started: ExitStack, command: list[str], quiet: bool = False, environment: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a program that ends when `started` is closed. If `quiet`, its log is dropped."""
    errors = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(command, cwd=ROOT, stderr=errors, env=environment)
    started.callback(_end, process)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
