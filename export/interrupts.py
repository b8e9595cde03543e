"""Holds back Ctrl-C while a library runs that does not survive it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_held() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block if SIGINT arrived within it.

    The exporter of torch calls Python from C++, which ends the process with SIGABRT if Python raises there. Outside the
    main thread, which alone receives signals, the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt
