"""Kills a program while it writes a file, however fast or slow the machine is."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from child_process import child
from running_service import wait_until

# Runs a module, and stops its process just before a file of this name gets its N-th content: the new content is written
# beside it, and not yet renamed.
_STOPPING = """
import os, runpy, signal, sys
name, left, module = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def watch(event, arguments):
    global left
    if event == "os.rename" and os.path.basename(str(arguments[1])) == name:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGSTOP)
sys.argv = sys.argv[3:]
sys.addaudithook(watch)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def killed_while_it_writes(command: Sequence[str], file: Path, times: int = 1) -> None:
    """Run `python -m MODULE ...` until it replaces `file` for the N-th time, and kill it before it has done so.

    The process stops itself there, so that it cannot go on before it is killed, however busy the machine is.
    """
    python, flag, *rest = command
    assert flag == "-m"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with child([python, "-c", _STOPPING, file.name, str(times), *rest], **quiet) as process:
        wait_until(lambda: is_stopped(process.pid) or process.poll() is not None, seconds=300)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was to be killed half-way"
    assert any(file.parent.glob(f".{file.name}.*")), "what it wrote is unfinished"


def is_stopped(pid: int) -> bool:
    """Whether a process of this number has been stopped by a signal."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state == "T"
