"""Tests the launcher with small programs: who is started again, and what it says about a process that failed."""

import sys
import time
from pathlib import Path

import pytest
from child_process import child, end

from models.training.processes.launch import RESTARTS, train_in_processes
from models.training.processes.ranks import ProcessesError

PROGRAM = """
import os, pathlib, signal, sys, time
number = int(os.environ["RANK"])
folder = pathlib.Path(sys.argv[1])
with (folder / f"starts-{number}").open("a") as file:
    file.write("--resume" if "--resume" in sys.argv else "anew")
    file.write("\\n")
"""


def starts(folder: Path, number: int) -> list[str]:
    return (folder / f"starts-{number}").read_text().split()


def run(folder: Path, program: str) -> None:
    train_in_processes(2, ["-c", PROGRAM + program, str(folder)], folder)


def test_every_process_runs_once_if_all_succeed(tmp_path: Path) -> None:
    run(tmp_path, "assert os.environ['WORLD_SIZE'] == '2'")
    assert starts(tmp_path, 0) == starts(tmp_path, 1) == ["anew"]


def test_a_killed_process_is_started_again_from_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = """
if "--resume" not in sys.argv:
    if number == 1:
        (folder / "resume.pt").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""
    run(tmp_path, program)
    assert starts(tmp_path, 0) == starts(tmp_path, 1) == ["anew", "--resume"]
    assert "process 1 was killed by SIGKILL; going on from the last checkpoint (1 of 3" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_begins_anew_and_the_restarts_have_an_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "resume.pt").touch()  # of an earlier run
    program = "\nos.kill(os.getpid(), signal.SIGKILL) if number == 0 else time.sleep(60)"
    with pytest.raises(ProcessesError, match=r"process 0 was killed by SIGKILL; no restart is left"):
        run(tmp_path, program)
    assert starts(tmp_path, 0) == ["anew"] * (RESTARTS + 1)
    assert capsys.readouterr().err.count("beginning anew, for there is no checkpoint yet") == RESTARTS


def test_a_process_that_fails_is_not_repeated_and_its_message_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The first process ends with 3 after the other one, as one that lost another does.
    program = """
pid = folder / "pid"
if number == 1:
    (folder / "pid.tmp").write_text(str(os.getpid()))
    (folder / "pid.tmp").rename(pid)
    sys.exit("error: the disk of this process is full")
while not pid.exists():
    time.sleep(0.01)
stat = pathlib.Path(f"/proc/{pid.read_text()}/stat")
while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.01)
sys.exit(3)
"""
    with pytest.raises(ProcessesError, match="process 1 failed; its message is above"):
        run(tmp_path, program)
    assert "error: the disk of this process is full" in capfd.readouterr().err
    assert starts(tmp_path, 1) == ["anew"]


def test_the_processes_end_with_their_launcher(tmp_path: Path) -> None:
    """SIGTERM at the launcher ends the processes too; the launcher ends as at Ctrl-C."""
    program = PROGRAM + "\n(folder / f'pid-{number}').write_text(str(os.getpid()))\ntime.sleep(60)"
    launcher = f"""
import sys
from pathlib import Path
from models.training.processes.launch import train_in_processes
try:
    train_in_processes(2, ["-c", {program!r}, sys.argv[1]], Path(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(3)
"""
    files = [tmp_path / f"pid-{number}" for number in range(2)]
    with child([sys.executable, "-c", launcher, str(tmp_path)]) as process:
        deadline = time.monotonic() + 120
        while not all(file.exists() and file.read_text() for file in files):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert end(process) == 3
    for file in files:
        assert not Path(f"/proc/{file.read_text()}").exists()
