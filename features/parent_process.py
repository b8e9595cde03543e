"""Lets a process end with the one that started it.

It is in this package because both halves of the project start processes, and everybody may import it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Let the kernel send a signal to this process when its parent ends, for whatever reason (Linux only).

    Raises SystemExit if the process is not the child of `parent`: that one ended before this call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(0)


def begin_in_pool(parent: int) -> None:
    """Begin a process of a pool: it ends with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL, parent)
