"""Queues records of the exposure log, and runs the thread that writes them.

Queuing a record takes less than a microsecond; it never waits and never fails. This module does not import pyarrow, so
a worker without a log does not need it.
"""

import logging
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from threading import Event, Thread
from typing import Any, Final, Protocol

log = logging.getLogger("funnelrank.exposures")
FLUSH_SECONDS: Final = 0.2  # what a process that is killed loses at most, beside the record it is writing
_MAX_RECORDS = 20_000
_MAX_ITEMS = 200_000  # of all records in the queue; their rows are in memory meanwhile
_BATCH_RECORDS = 256
_BATCH_ITEMS = 20_000


class Outcome(StrEnum):
    """The outcome of a record."""

    WRITTEN = "written"
    QUEUE_FULL = "queue_full"
    WRITE_FAILED = "write_failed"


class Sink(Protocol):
    """The destination of the records. Only one thread calls its methods."""

    def write(self, kind: str, records: list[Any]) -> None:
        """Write the records of one kind. If it raises, none of them is written."""
        ...

    def tend(self) -> None:
        """Close old files and enforce the limits; called several times a second. Never raises."""
        ...

    def close(self) -> None: ...


class RecordLog:
    """A bounded queue of records and one thread that writes them to a sink. Call `start`, `offer` and `close`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: deque[tuple[str, Any, int]] = deque()
        # Each count is changed by one thread only: that of the event loop, or the writer's.
        self._items_offered = 0
        self._items_taken = 0
        self._full: dict[str, int] = {}
        self._done: dict[tuple[str, str], int] = {}
        self._stop = Event()
        self._reported = ""
        self._thread = Thread(target=self._run, name="exposure-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, kind: str, record: Any, items: int = 1) -> bool:
        """Queue a record of `items` items. Returns False, and counts it, if the queue is full."""
        if len(self._queue) >= _MAX_RECORDS or self._items_offered - self._items_taken >= _MAX_ITEMS:
            self._full[kind] = self._full.get(kind, 0) + 1
            return False
        self._items_offered += items
        self._queue.append((kind, record, items))
        return True

    def close(self) -> None:
        """Write the queued records, and close the files."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def queued(self) -> int:
        """How many records wait to be written."""
        return len(self._queue)

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many records had each outcome, by kind, since the start."""
        full: dict[tuple[str, str], int] = {
            (kind, Outcome.QUEUE_FULL): count for kind, count in self._full.copy().items()
        }
        return full | self._done.copy()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._step()
        self._step()
        try:
            self._sink.close()
        except Exception:
            log.exception("the files of the exposure log were not closed")

    def _step(self) -> None:
        """Write all queued records, and let the sink do its regular work."""
        while self._queue:
            self._write_some()
        self._sink.tend()

    def _write_some(self) -> None:
        """Write one batch of each kind."""
        records_by_kind: dict[str, list[Any]] = {}
        records = 0
        items = 0
        while self._queue and records < _BATCH_RECORDS and items < _BATCH_ITEMS:
            kind, record, size = self._queue.popleft()
            records_by_kind.setdefault(kind, []).append(record)
            records += 1
            items += size
        for kind, batch in records_by_kind.items():
            self._write(kind, batch)
        self._items_taken += items

    def _write(self, kind: str, batch: list[Any]) -> None:
        """Write records of one kind, and count them."""
        outcome = Outcome.WRITTEN
        try:
            self._sink.write(kind, batch)
            self._reported = ""
        except OSError as error:
            # Rankings continue: records that cannot be written are counted and dropped.
            outcome = Outcome.WRITE_FAILED
            self._report(str(error))
        except Exception:
            # A record that cannot be packed must not take the others of its batch with it.
            if len(batch) > 1:
                for record in batch:
                    self._write(kind, [record])
                return
            outcome = Outcome.WRITE_FAILED
            log.exception("a record of the exposure log cannot be packed")
        self._done[kind, outcome] = self._done.get((kind, outcome), 0) + len(batch)

    def _report(self, problem: str) -> None:
        """Write one line per kind of fault, until a write succeeds again."""
        if not self._reported:
            log.error("records of the exposure log are dropped: %s", problem)
        self._reported = problem
