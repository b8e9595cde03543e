"""Queues traces and sends them in a thread of its own.

This module does not import OpenTelemetry: `service.tracing.spans` does, and only a worker that sends traces imports it.
"""

import logging
from collections import deque
from threading import Event, Thread
from typing import Final, Protocol

from prometheus_client import Counter

from service.tracing.marks import FinishedTrace

log = logging.getLogger("funnelrank.tracing")
MOST_QUEUED: Final = 512  # with one sending a second, this also bounds the CPU time while every request fails
SEND_SECONDS: Final = 1.0
_CLOSE_SECONDS = 2.0


class SpanWriter(Protocol):
    """Where the traces go. `write` is called by one thread; `close` interrupts it."""

    def write(self, traces: list[FinishedTrace]) -> bool:
        """Send the traces; return whether the endpoint has taken them."""
        ...

    def close(self) -> None: ...


class TraceSender:
    """A bounded queue of traces and the thread that sends them, once a second. Call `start`, `offer` and `close`.

    `traces` counts them by outcome: sent, failed (the endpoint did not take them), dropped (the queue was full).
    """

    def __init__(self, writer: SpanWriter, traces: Counter) -> None:
        self._writer = writer
        self._sent = traces.labels("sent")
        self._failed = traces.labels("failed")
        self._dropped = traces.labels("dropped")
        self._queue: deque[FinishedTrace] = deque()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, trace: FinishedTrace) -> None:
        """Queue a trace, or count it as dropped. Never waits."""
        if len(self._queue) < MOST_QUEUED:
            self._queue.append(trace)
        else:
            self._dropped.inc()

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        self._stop.set()
        self._thread.join(_CLOSE_SECONDS)
        self._writer.close()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(SEND_SECONDS):
            self._send()
        self._send()

    def _send(self) -> None:
        # Only this thread takes from the queue.
        traces = [self._queue.popleft() for _ in range(len(self._queue))]
        if not traces:
            return
        try:
            is_sent = self._writer.write(traces)
        except Exception:
            log.exception("%d traces could not be sent", len(traces))
            is_sent = False
        (self._sent if is_sent else self._failed).inc(len(traces))
