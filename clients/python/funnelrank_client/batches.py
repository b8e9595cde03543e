"""Sends events and impressions in the background, in batches, so that a page never waits for them."""

from __future__ import annotations

import logging
import re
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import Generic, Self, TypeVar

from funnelrank_client.client import Client
from funnelrank_client.errors import BadRequest, FunnelrankError, NotAllowed
from funnelrank_client.requests import Event, Impression, to_json

log = logging.getLogger("funnelrank_client")
_PAUSE_AFTER_FAILURE_S = 1.0
_INDEX = re.compile(r"(?:events|impressions)\[(\d+)\]")
_LARGEST_BATCH = 1000
Record = TypeVar("Record", Event, Impression)


class Sender(ABC, Generic[Record]):
    """Collects records and sends them from a thread of its own.

    A batch is sent when it has `batch` records or after `every_ms`. While the service is away, records wait; beyond
    `limit` the oldest are dropped and counted in `dropped`. After a failure the sender pauses, however many records
    are added meanwhile. Each record has an id, so a repeated batch counts once.
    `close` sends the waiting records, for at most `close_s` seconds.
    """

    def __init__(
        self, client: Client, *, batch: int = 500, every_ms: int = 200, limit: int = 100_000, close_s: float = 5.0
    ) -> None:
        if not 1 <= batch <= _LARGEST_BATCH:
            raise ValueError(f"batch is 1 to {_LARGEST_BATCH}, not {batch}: the service takes no more in one call")
        self._client = client
        self._batch = batch
        self._every_s = every_ms / 1000
        self._waiting: deque[Record] = deque(maxlen=limit)
        self._close_s = close_s
        self._changed = threading.Condition()
        self._closing = False
        self._pausing = False
        self.sent = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="funnelrank-sender", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Queue a record; never waits for the service.

        Raises RuntimeError after `close`, and TypeError or ValueError for a record that JSON cannot hold (NaN, numpy).
        """
        to_json(record.as_json())
        with self._changed:
            if self._closing:
                raise RuntimeError("the sender is closed")
            if len(self._waiting) == self._waiting.maxlen:
                self.dropped += 1
            self._waiting.append(record)
            if len(self._waiting) >= self._batch and not self._pausing:
                self._changed.notify()

    def close(self) -> None:
        """Send the waiting events, then stop. Events that cannot be sent in time are counted in `dropped`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self._close_s)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _call(self, batch: Sequence[Record]) -> None:
        """Send one batch."""

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                self._send(batch)
            elif self._closing:
                return

    def _next_batch(self) -> list[Record]:
        """The oldest events. They stay in the queue until they are sent."""
        with self._changed:
            if len(self._waiting) < self._batch and not self._closing:
                self._changed.wait(self._every_s)
            return list(islice(self._waiting, self._batch))

    def _send(self, batch: list[Record]) -> None:
        try:
            self._call(batch)
        except BadRequest as error:
            # The service will always refuse these records. The others must not wait for them, nor be lost with them.
            refused = _refused(batch, error)
            log.error("%d records are dropped: %s", len(refused), error)
            self._remove(refused, sent=False)
        except NotAllowed as error:
            log.error("%d records are dropped: %s", len(batch), error)
            self._remove(batch, sent=False)
        except FunnelrankError as error:
            log.warning("%d records wait: %s", len(batch), error)
            self._pause()
        except Exception:
            # The thread must go on: without it, every later record would be lost without a message.
            log.exception("%d records are dropped", len(batch))
            self._remove(batch, sent=False)
        else:
            self._remove(batch, sent=True)

    def _pause(self) -> None:
        """Wait before the next attempt. Only the start of `close` ends the pause early."""
        with self._changed:
            closing = self._closing
            self._pausing = True
            self._changed.wait_for(lambda: self._closing != closing, _PAUSE_AFTER_FAILURE_S)
            self._pausing = False

    def _remove(self, batch: list[Record], *, sent: bool) -> None:
        ids = {id(record) for record in batch}
        with self._changed:
            # Records beyond `limit` have left the queue and are counted already. The thread sends one batch at a time.
            oldest = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            waiting = [record for record in oldest if id(record) not in ids]
            self._waiting.extendleft(reversed(waiting))
            removed = len(oldest) - len(waiting)
            if sent:
                self.sent += removed
            else:
                self.dropped += removed


class EventSender(Sender[Event]):
    """Sends events."""

    def _call(self, batch: Sequence[Event]) -> None:
        self._client.send_events(batch)


class ImpressionSender(Sender[Impression]):
    """Sends impressions."""

    def _call(self, batch: Sequence[Impression]) -> None:
        self._client.send_impressions(batch)


def _refused(batch: list[Record], error: BadRequest) -> list[Record]:
    """The events that the error names, e.g. by `events[3].timestamp`; all if it names none."""
    named = {int(match[1]) for bad in error.errors if (match := _INDEX.match(bad.field))}
    return [batch[i] for i in sorted(named) if i < len(batch)] or batch
