"""Starts the processes of a run on this machine, and starts them again from the last checkpoint if one is killed."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from models.training.checkpoint import RESUME_FILE
from models.training.processes.ranks import ProcessesError

RESTARTS = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
REFUSED = (1, 2)  # exit codes of a process that said why; a killed one has a negative code


def train_in_processes(count: int, command: Sequence[str], out: Path) -> None:
    """Run `python COMMAND` in `count` processes, as torchrun does, and continue with --resume if one is killed.

    `out`: the folder of the run. Raises ProcessesError if a process fails, or if processes were killed more than
    `RESTARTS` times; KeyboardInterrupt at a signal.
    """
    earlier = _checkpoints(out)  # of a run that this one replaces, unless the command continues it
    resume: list[str] = []
    restart = 0
    while failures := _run_once(count, [*command, *resume]):
        described = _described(failures)
        if any(failure.exitcode in REFUSED for failure in failures.values()):
            raise ProcessesError(described)
        if restart == RESTARTS:
            raise ProcessesError(f"{described}; no restart is left: the same command with --resume goes on")
        restart += 1
        resumes = "--resume" in command or bool(_checkpoints(out) - earlier)
        where = "going on from the last checkpoint" if resumes else "beginning anew, for there is no checkpoint yet"
        sys.stderr.write(f"{described}; {where} ({restart} of {RESTARTS} restarts)\n")
        resume = ["--resume"] if resumes and "--resume" not in command else []


def _run_once(count: int, command: Sequence[str]) -> dict[int, ProcessFailure]:
    """Run the processes to their end; return the failures by number, none if all of them succeeded."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a free port
        local_addr="127.0.0.1",
        max_restarts=0,  # torchrun would also repeat what was refused
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(os.devnull),  # all of them write to this process's terminal
    )
    with _quiet_torchrun():
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            return dict(error.failures)
        except SignalException as error:
            raise KeyboardInterrupt from error
    return {}


@contextmanager
def _quiet_torchrun() -> Iterator[None]:
    """Keep torchrun's own messages, which say less, from the terminal; restore the handlers of signals that it sets.

    The processes meet on this machine alone.
    """
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    logger.setLevel(logging.CRITICAL)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        yield
    finally:
        logger.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _described(failures: Mapping[int, ProcessFailure]) -> str:
    """Say which process is the cause, and how it ended."""
    # A process that refused or was killed is the cause; one that ended by SIGTERM was stopped because of another.
    order = sorted(failures.items(), key=lambda item: _rank_of_cause(item[1]))
    number, failure = order[0]
    if failure.exitcode < 0:
        return f"process {number} was killed by {signal.Signals(-failure.exitcode).name}"
    if failure.exitcode not in REFUSED:
        return f"process {number} lost another process"
    return f"process {number} failed; its message is above"


def _rank_of_cause(failure: ProcessFailure) -> int:
    if failure.exitcode in REFUSED:
        return 0
    if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
        return 1
    return 2 if failure.exitcode < 0 else 3


def _checkpoints(out: Path) -> set[tuple[Path, int, int]]:
    """The checkpoints of a folder, of one network or of several, each with what tells its content from another."""
    stats = {path: path.stat() for path in out.rglob(RESUME_FILE)}
    return {(path, stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}
