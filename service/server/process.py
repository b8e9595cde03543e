"""Starts one worker process and watches it: its heartbeats, and how it ended."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from service.server.start import WorkerStart
from service.server.worker import SERVING, run_worker

_SILENT_SECONDS = 15.0  # after which a worker whose event loop gives no sign counts as hung
_SILENT_AT_START_SECONDS = 120.0  # before its event loop runs: imports on a busy machine
_spawn = multiprocessing.get_context("spawn")


@dataclass
class WorkerProcess:
    """One worker process, as the supervisor sees it."""

    process: SpawnProcess
    heartbeat: Connection
    started_at: float
    beat_at: float | None = None
    serving: bool = False

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def end(self) -> str:
        """The exit code of the process, or the signal that killed it."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}"

    def take_heartbeats(self, now: float) -> None:
        try:
            beats = os.read(self.heartbeat.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if beats:
            self.beat_at = now
            self.serving = self.serving or SERVING in beats

    def forgive(self, seconds: float) -> None:
        """Ignore a time in which the supervisor itself was stopped, instead of counting it as silence of this
        worker.
        """
        self.started_at += seconds
        if self.beat_at is not None:
            self.beat_at += seconds

    def is_hung(self, now: float) -> bool:
        if self.beat_at is None:
            return now - self.started_at > _SILENT_AT_START_SECONDS
        return now - self.beat_at > _SILENT_SECONDS

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """Wait until the process has ended, and release its resources."""
        self.process.join()
        self.heartbeat.close()


def start_process(start: WorkerStart, sockets: Sequence[socket.socket]) -> WorkerProcess:
    """Start a new worker. Raises OSError if the system has no process or file descriptor left."""
    reading, writing = _spawn.Pipe(duplex=False)
    os.set_blocking(reading.fileno(), False)
    process = _spawn.Process(target=run_worker, args=(start, sockets, writing, os.getpid()))
    try:
        process.start()
    except OSError:
        reading.close()
        raise
    finally:
        writing.close()
    return WorkerProcess(process, reading, time.monotonic())
