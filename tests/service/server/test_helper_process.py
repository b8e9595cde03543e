"""Tests the process that a service keeps beside it: it is started again, and never holds up the end of the service."""

import os
from pathlib import Path
from threading import Thread

import pytest
from running_service import wait_until

from service.server import helper_process
from service.server.helper_process import Helper, HelperNotStarted, running

MODULE = """
import os, pathlib, sys, time
starts = pathlib.Path(sys.argv[1])
with starts.open("a") as file:
    file.write(f"{os.getpid()}\\n")
count = len(starts.read_text().splitlines())
if count > int(sys.argv[2]):
    time.sleep(600)
print("ready", flush=True)
if sys.argv[3] == "ends":
    sys.exit(1)
sys.stdin.read()
"""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the process id of each start."""
    (tmp_path / "some_helper.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setattr(helper_process, "_RESTART_SECONDS", 0.0)
    return tmp_path / "starts"


def helper(starts: Path, ready: int, then: str, start_seconds: float) -> Helper:
    """A helper whose first `ready` starts become ready, and which then `ends` or stays."""
    arguments = ("some_helper", str(starts), str(ready), then)
    return Helper("the helper", arguments, start_seconds, stop_seconds=10.0, longest_restart_seconds=1.0)


def pids(starts: Path) -> list[int]:
    return [int(line) for line in starts.read_text().splitlines()] if starts.exists() else []


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_the_end_of_the_service_does_not_wait_for_a_helper_that_starts(starts: Path) -> None:
    block = running(helper(starts, 1, "ends", start_seconds=600.0))
    block.__enter__()
    wait_until(lambda: len(pids(starts)) == 2)
    leaving = Thread(target=block.__exit__, args=(None, None, None), daemon=True)
    leaving.start()
    leaving.join(60)
    assert not leaving.is_alive()
    assert not any(map(is_running, pids(starts)))


def test_a_helper_that_does_not_become_ready_in_time_is_refused(starts: Path) -> None:
    with pytest.raises(HelperNotStarted, match="it gave no answer"), running(helper(starts, 0, "stays", 1.0)):
        pass
    assert not any(map(is_running, pids(starts)))
