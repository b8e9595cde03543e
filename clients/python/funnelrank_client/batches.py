"""Sends events in the background, in batches, so that a page never waits for them."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from itertools import islice
from types import TracebackType

from funnelrank_client.client import Client
from funnelrank_client.errors import BadRequest, FunnelrankError, NotAllowed
from funnelrank_client.requests import Event

log = logging.getLogger("funnelrank_client")
_PAUSE_AFTER_FAILURE_S = 1.0
_INDEX = re.compile(r"events\[(\d+)\]")


class EventSender:
    """Collects events and sends them from a thread of its own.

    A batch goes out with `batch` events or after `every_ms`. While the service is away, events wait; beyond `limit`
    the oldest are dropped and counted in `dropped`. Each event has an id, so that a repeated batch counts once.
    `close` sends what waits, for at most `close_s` seconds.
    """

    def __init__(
        self, client: Client, *, batch: int = 500, every_ms: int = 200, limit: int = 100_000, close_s: float = 5.0
    ) -> None:
        if not 1 <= batch <= 1000:
            raise ValueError(f"batch is 1 to 1000, not {batch}: the service takes at most 1,000 events in one call")
        self._client = client
        self._batch = batch
        self._every_s = every_ms / 1000
        self._waiting: deque[Event] = deque(maxlen=limit)
        self._close_s = close_s
        self._changed = threading.Condition()
        self._closing = False
        self.sent = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="funnelrank-events", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Never waits for the service. Raises RuntimeError after `close`."""
        with self._changed:
            if self._closing:
                raise RuntimeError("the sender is closed")
            if len(self._waiting) == self._waiting.maxlen:
                self.dropped += 1
            self._waiting.append(event)
            if len(self._waiting) >= self._batch:
                self._changed.notify()

    def close(self) -> None:
        """Send what waits, then stop. What cannot be sent in time is counted in `dropped`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self._close_s)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def __enter__(self) -> EventSender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                self._send(batch)
            elif self._closing:
                return

    def _next_batch(self) -> list[Event]:
        """The oldest events. They stay in the queue until they are sent."""
        with self._changed:
            if len(self._waiting) < self._batch and not self._closing:
                self._changed.wait(self._every_s)
            return list(islice(self._waiting, self._batch))

    def _send(self, batch: list[Event]) -> None:
        try:
            self._client.send_events(batch)
        except BadRequest as error:
            # The service refuses these events for ever. Others must not wait behind them, nor be lost with them.
            refused = _refused(batch, error)
            log.error("%d events are dropped: %s", len(refused), error)
            self._remove(refused, sent=False)
        except NotAllowed as error:
            log.error("%d events are dropped: %s", len(batch), error)
            self._remove(batch, sent=False)
        except FunnelrankError as error:
            log.warning("%d events wait: %s", len(batch), error)
            with self._changed:
                self._changed.wait(_PAUSE_AFTER_FAILURE_S)
        else:
            self._remove(batch, sent=True)

    def _remove(self, batch: list[Event], *, sent: bool) -> None:
        ids = {event.event_id for event in batch}
        with self._changed:
            # Events beyond `limit` have left the queue and are counted already. The thread looks at one batch at most.
            oldest = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            kept = [event for event in oldest if event.event_id not in ids]
            self._waiting.extendleft(reversed(kept))
            removed = len(oldest) - len(kept)
            if sent:
                self.sent += removed
            else:
                self.dropped += removed


def _refused(batch: list[Event], error: BadRequest) -> list[Event]:
    """The events that the error names, as `events[3].timestamp`; all if it names none."""
    named = {int(match[1]) for bad in error.errors if (match := _INDEX.match(bad.field))}
    return [batch[i] for i in sorted(named) if i < len(batch)] or batch
