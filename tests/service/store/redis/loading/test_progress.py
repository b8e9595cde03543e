"""Tests the progress of a load: one line per table in a log, a bar in a terminal."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from service.store.redis.loading.progress import note, progress

ROOT = Path(__file__).parents[5]
LOAD = """
from service.store.redis.loading.progress import note, progress
with progress("items", "rows", 5, 2) as advance:
    note("goes on after 2")
    advance(1)
    advance(2)
"""


def test_a_log_gets_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("items", "rows", 5000, 2000) as advance:
        note("items: goes on after 2000")
        advance(3000)
    with progress("forgetting", "keys") as advance:
        advance(1)
    assert capsys.readouterr().err == "items: goes on after 2000\nitems: 100% of 5000 rows\nforgetting: 1 keys\n"


def test_a_load_that_fails_leaves_no_line_that_says_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        with progress("items", "rows", 5) as advance:
            advance(3)
            raise ValueError("row 3")

    with pytest.raises(ValueError, match="row 3"):
        failing()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_ends_full() -> None:
    terminal, child_end = pty.openpty()
    termios.tcsetwinsize(child_end, (24, 80))
    try:
        done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, stderr=child_end, timeout=60)
        shown = os.read(terminal, 100_000).decode()
    finally:
        os.close(child_end)
        os.close(terminal)
    assert done.returncode == 0
    assert "goes on after 2" in shown
    assert "items: 100%" in shown
    assert "5/5" in shown
