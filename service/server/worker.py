"""Runs one worker: uvicorn with the application and a heartbeat to the supervisor; the worker ends with the
supervisor.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import FrameType

import uvicorn

from features.parent_process import end_with_parent
from service import log as service_log
from service.server.app import build_app
from service.server.protocol.connection import BoundedConnection
from service.server.start import WorkerStart

log = logging.getLogger("funnelrank.serve")
HEARTBEAT_SECONDS = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STARTING = b"s"
SERVING = b"S"
_KEEP_ALIVE_SECONDS = 75


def run_in_process(start: WorkerStart, sockets: Sequence[socket.socket]) -> int:
    """Serve in this process until SIGTERM or SIGINT; return the exit code."""
    _exit_on_signals()
    signal.signal(signal.SIGHUP, _ignore_hangup)
    server = _server(start, None)
    try:
        server.run(list(sockets))
    except SystemExit as stopped:  # uvicorn raises the signal that ended it once more; 3 is its failed start
        ignore_signals()
        return 0 if stopped.code in (0, None) else 1
    return 1  # it ended without a signal


def run_worker(start: WorkerStart, sockets: Sequence[socket.socket], heartbeat: Connection, supervisor: int) -> None:
    """The main function of a worker process."""
    service_log.configure(start.settings.log_level)
    _exit_on_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes sends it to all; the supervisor answers it
    end_with_parent(signal.SIGTERM, supervisor)
    os.set_blocking(heartbeat.fileno(), False)
    _server(start, heartbeat).run(list(sockets))


class _Server(uvicorn.Server):
    """uvicorn's server with a heartbeat that the event loop sends, so that the supervisor notices a blocked loop."""

    heartbeat: Connection | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await super().serve(sockets)
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while self.heartbeat is not None:
            try:
                os.write(self.heartbeat.fileno(), SERVING if self.started else STARTING)
            except BlockingIOError:  # the supervisor is stopped
                pass
            except BrokenPipeError:
                log.error("the supervisor has ended, so this worker ends")
                signal.raise_signal(signal.SIGTERM)
                return
            await asyncio.sleep(HEARTBEAT_SECONDS if self.started else HEARTBEAT_SECONDS / 10)


def _server(start: WorkerStart, heartbeat: Connection | None) -> _Server:
    settings = start.settings
    server = _Server(
        uvicorn.Config(
            build_app(start),
            loop="uvloop",
            http=BoundedConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, settings.shutdown_timeout_ms // 1000),
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
    )
    server.heartbeat = heartbeat
    return server


def ignore_signals() -> None:
    """Ignore SIGTERM, SIGINT and SIGHUP: the process is about to end, and a repeated signal must not change its exit
    code.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _exit_on_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _ignore_hangup(_number: int, _frame: FrameType | None) -> None:
    log.warning("SIGHUP is ignored: with one worker, a restart would lose requests")
