"""Supervises the worker processes: starts them, replaces those that end or hang, restarts them one by one, stops them.

uvicorn's supervisor stops every worker if one cannot start, restarts without a pause, and passes no data to its
workers. Nearly all of it would have had to be replaced.
"""

import logging
import multiprocessing.connection
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from service.server.process import WorkerProcess, start_process
from service.server.start import WorkerStart
from service.server.worker import SIGNALS, ignore_signals

log = logging.getLogger("funnelrank.serve")
_STABLE_SECONDS = 30.0  # a worker that lives as long starts a new count of failures
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_FAILED_STARTS = 3  # of every worker, before one has ever served: the service ends
_STOP_MARGIN_SECONDS = 5.0
_TICK_SECONDS = 0.5
_STOOD_STILL_SECONDS = 3.0  # without a look: all were stopped, as in a container that is paused


@dataclass
class Place:
    """A slot for one worker: the worker, its successor during a restart, and when the next one may start."""

    worker: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    failures: int = 0
    start_at: float = 0.0


class Supervisor:
    """Keeps workers running. Each starts with `start`; at SIGHUP, `renew` makes the start of the successors."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        start: WorkerStart,
        renew: Callable[[WorkerStart], WorkerStart],
    ) -> None:
        self._places = [Place() for _ in range(start.settings.workers)]
        self._sockets = sockets
        self._start_with = start
        self._renew = renew
        self._signals: list[int] = []
        self._leaving: list[WorkerProcess] = []  # replaced at a restart, and finishing their requests
        self._to_restart: list[Place] = []
        self._has_served = False
        self._looked_at = time.monotonic()

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; return the exit code."""
        with self._woken_by_signals() as wakeup:
            try:
                while True:
                    self._wait(wakeup)
                    signals = self._signals
                    self._signals = []
                    if signal.SIGTERM in signals or signal.SIGINT in signals:
                        return 0
                    if signal.SIGHUP in signals:
                        self._begin_restart()
                    self._look_after_workers(time.monotonic())
                    if self._cannot_start():
                        log.error("no worker could be started in %d attempts each, so the service ends", _FAILED_STARTS)
                        return 1
            finally:
                self._stop()

    def _look_after_workers(self, now: float) -> None:
        # Whatever stopped this process has most likely stopped the workers too, and they continue a moment later.
        stood_still = now - self._looked_at
        self._looked_at = now
        for worker in self._workers():
            if stood_still > _STOOD_STILL_SECONDS:
                worker.forgive(stood_still)
            worker.take_heartbeats(now)
            self._has_served = self._has_served or worker.serving
        for place in self._places:
            self._restart_step(place)
            for worker in filter(None, (place.worker, place.successor)):
                if worker.is_hung(now):
                    log.error("worker %d sends no heartbeat and is killed", worker.pid)
                    worker.kill()
            self._replace_ended(place, now)
            if place.worker is None and now >= place.start_at:
                place.worker = self._start(place, now)
        for worker in [worker for worker in self._leaving if worker.has_ended]:
            self._leaving.remove(worker)
            worker.close()

    def _start(self, place: Place, now: float) -> WorkerProcess | None:
        """Start a new worker; if the system has no resources for one, return None and delay the next attempt."""
        try:
            return start_process(self._start_with, self._sockets)
        except OSError as error:
            self._postpone(place, now, f"no worker can be started ({error})")
            return None

    def _replace_ended(self, place: Place, now: float) -> None:
        successor = place.successor
        if successor is not None and successor.has_ended:
            log.error("the new worker %d has ended (%s); the restart is abandoned", successor.pid, successor.end)
            successor.close()
            place.successor = None
            self._to_restart.clear()
        worker = place.worker
        if worker is None or not worker.has_ended:
            return
        if now - worker.started_at > _STABLE_SECONDS:
            place.failures = 0
        self._postpone(place, now, f"worker {worker.pid} has ended ({worker.end})", at_once=worker.serving)
        worker.close()
        # During a restart, the successor takes the slot.
        place.worker = place.successor
        place.successor = None

    def _postpone(self, place: Place, now: float, problem: str, *, at_once: bool = False) -> None:
        """Count a failure, and set the pause before the next start: twice the last pause, or none at first
        (`at_once`).
        """
        pause = 0.0
        if place.failures > 0 or not at_once:
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(place.failures, 10))
        place.failures += 1
        place.start_at = now + pause
        log.error("%s; the next start is in %.1f s", problem, pause)

    def _begin_restart(self) -> None:
        log.info("SIGHUP: the workers are restarted one by one")
        self._start_with = self._renew(self._start_with)
        self._to_restart = list(self._places)

    def _restart_step(self, place: Place) -> None:
        """One step of a restart: start a successor, and stop the old worker once the new one serves."""
        if not self._to_restart or self._to_restart[0] is not place or place.worker is None:
            return
        if place.successor is None:
            place.successor = self._start(place, time.monotonic())
            if place.successor is None:
                self._to_restart.clear()
        elif place.successor.serving:
            place.worker.process.terminate()
            self._leaving.append(place.worker)
            place.worker = place.successor
            place.successor = None
            self._to_restart.pop(0)

    def _cannot_start(self) -> bool:
        return not self._has_served and all(place.failures >= _FAILED_STARTS for place in self._places)

    def _stop(self) -> None:
        """Ask every worker to stop, and kill those that do not stop before the deadline."""
        workers = list(self._workers())
        for worker in workers:
            worker.process.terminate()
        settings = self._start_with.settings
        limit_ms = settings.drain_ms + settings.shutdown_timeout_ms
        until = time.monotonic() + limit_ms / 1000 + _STOP_MARGIN_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if not worker.has_ended:
                log.error("worker %d does not stop and is killed", worker.pid)
                worker.kill()
            worker.close()

    def _workers(self) -> Iterator[WorkerProcess]:
        for place in self._places:
            yield from filter(None, (place.worker, place.successor))
        yield from self._leaving

    def _wait(self, wakeup: int) -> None:
        """Wait until a signal arrives, a worker ends or the next check is due."""
        ends = [worker.process.sentinel for worker in self._workers()]
        if multiprocessing.connection.wait([wakeup, *ends], _TICK_SECONDS if ends else 0.05):
            try:
                os.read(wakeup, 1 << 10)
            except BlockingIOError:
                return

    @contextmanager
    def _woken_by_signals(self) -> Iterator[int]:
        """Collect signals; the file descriptor becomes readable when one arrives.

        Afterwards the process ignores them: it is about to end, and a repeated SIGTERM must not change its exit code.
        """

        def note(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        for number in SIGNALS:
            signal.signal(number, note)
        wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            ignore_signals()
            signal.set_wakeup_fd(wakeup_before)
            os.close(reading)
            os.close(writing)
