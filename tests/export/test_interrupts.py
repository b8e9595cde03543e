"""Tests that Ctrl-C waits for the end of what does not survive it, and is not lost."""

import os
import signal
import threading

import pytest

from export.interrupts import interrupt_held


def test_an_interrupt_within_is_raised_at_the_end():
    steps = []

    def work():
        with interrupt_held():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("goes on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["goes on"]


def test_the_handler_of_before_is_restored_also_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="its own"), interrupt_held():
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGINT) is before
    with interrupt_held():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_runs_the_block_as_it_is():
    results = []

    def work():
        with interrupt_held():
            results.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["done"]
