"""Owns what one connection may cost before a request of it can be judged: bytes of its head, and the time until it has arrived as a whole.

uvicorn bounds neither: a caller that never ends its headers would fill the memory, one that never ends its body would keep a place among those in
work for ever. A request that arrives in one piece, as nearly all do, starts no timer here.
"""

import asyncio
from secrets import token_hex
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problems import PROBLEM_TYPE, HeadTooLarge, HttpError, RequestTooSlow, envelope, presentation_of

MAX_HEAD_BYTES = 65_536
READ_TIMEOUT = "read_timeout_s"  # the name in the state that the application's start hands to each connection


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, bounded."""

    _arriving = False  # a request has begun and is not here as a whole
    _head_bytes: int | None = None  # of the request that arrives; None once its headers are complete
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._arriving:
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request line and headers have more than {MAX_HEAD_BYTES} bytes"))
        if self._timer is None:
            self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_bytes = None

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arriving = False
        self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.app_state[READ_TIMEOUT], self._too_slow)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._arriving:  # a connection over which nothing ever came
            self.transport.close()
            return
        limit = self.app_state[READ_TIMEOUT]
        self._refuse(RequestTooSlow(f"the request did not arrive within {limit:g} s (FUNNELRANK_READ_TIMEOUT_MS)"))

    def _refuse(self, error: HttpError) -> None:
        """The envelope of every error, unless an answer has begun, and the end of the connection."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle  # None before the first request; while a head arrives, that of the request before it
        silent = (
            cycle is None or cycle.response_complete if self._head_bytes is not None else not cycle.response_started
        )
        if silent and not self.pipeline:
            body = envelope(error, token_hex(16))
            head = f"content-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[presentation_of(error).status] + head.encode() + body)
        self.transport.close()
