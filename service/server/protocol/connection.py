"""Limits what one connection may cost, which uvicorn's protocol does not: memory, time, and admitted requests."""

import asyncio
from typing import Any

import httptools

from service.api.problems import MalformedHttp, RequestTooSlow
from service.errors import Overloaded
from service.server.protocol.connections import CONNECTIONS
from service.server.protocol.framing import FRAMING_HEADERS, HEAD_TOO_LARGE, MAX_HEADERS, Framing, error_of, new_parser
from service.server.protocol.stopping import EndingConnection
from service.server.protocol.writing import ReadingGate, Timer, whole_answer

_QUEUE_FULL = 8  # requests that wait for their turn; the last piece of a chunked body may bring 7 more
_QUEUE_FULL_BYTES = 65_536
_DISCARDED_BYTES = 8 << 20  # of a body that arrives after its answer


class BoundedConnection(EndingConnection):
    """uvicorn's HTTP/1.1 protocol with limits."""

    flow: ReadingGate
    _offered = False  # the request that arrives offers an upgrade, which is ignored
    _replaying = False  # a new parser reads the framing of such a request
    _held: tuple[bytes, int] | None = None  # received bytes, and from where on they are not parsed
    _queued_bytes = 0  # parsed for requests that wait for their turn
    _discarded = 0
    _last_words: bytes | None = None  # the last answer; nothing that the caller sends counts any more
    _half_closed = False  # the caller sends nothing more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._framing = Framing()
        self._reading_timer = Timer()
        self._limits = self.app_state[CONNECTIONS]
        if not self._limits.opened(self):
            self._end_with(whole_answer(Overloaded("this process has no room for another connection")))
            return
        self._limits.idle(self)
        self._start_read_timer()

    def data_received(self, data: bytes) -> None:
        if self._held is not None:
            held, start = self._held
            self._held = (held[start:] + data, 0)
            return
        self._parse(data, 0)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A caller that has finished sending still gets its answers; True keeps the connection open for them."""
        self._half_closed = self._held is not None or self._owes_answer()
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._held = None
        self._reading_timer.stop()
        self._limits.closed(self)
        super().connection_lost(exc)

    # Requests

    def _parse(self, data: bytes, start: int) -> None:
        """Pass received bytes to the parser piece by piece, until the queue is full; keep the rest."""
        framing = self._framing
        view = memoryview(data)
        while start < len(data) and self._last_words is None and not self.transport.is_closing():
            if self.pipeline and self._queue_is_full():
                self._held = (data, start)
                self.flow.hold()
                break
            if not self._arriving:
                start = framing.skip_empty_lines(data, start)
                if start == len(data):
                    break
            end = framing.end_of_piece(data, start)
            was_in_head = framing.in_head
            length = self._feed(view[start:end])
            start += length
            if self.pipeline:
                self._queued_bytes += length
            # A body of known length is bounded, and a complete request is within the limits.
            if self._arriving and not framing.length_is_known and not framing.count(length, was_in_head=was_in_head):
                self._end_with(whole_answer(HEAD_TOO_LARGE))
        if self._arriving and not self._reading_timer.is_running:
            self._start_read_timer()

    def _feed(self, piece: memoryview) -> int:
        """Pass a piece to the parser and return the number of bytes that it parsed."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            self._ignore_offer()
            return int(offer.args[0])
        except httptools.HttpParserError as error:
            problem = error_of(error)
            if isinstance(problem, MalformedHttp):
                self._limits.cut("not_http")
            self._end_with(whole_answer(problem))
        return len(piece)

    def _ignore_offer(self) -> None:
        """Continue after a head that offers an upgrade, as if it did not offer one (RFC 9110, 7.8).

        The parser treats the rest as another protocol. A new parser reads how the body is framed.
        """
        self.parser = new_parser(self)
        if not self._arriving:
            return
        self._replaying = True
        framing = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING_HEADERS)
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
        except httptools.HttpParserError as error:
            self._end_with(whole_answer(error_of(error)))
        finally:
            self._replaying = False

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        super().on_message_begin()
        self._arriving = True
        self._framing.begin()
        self._limits.busy(self)
        self._unset_keepalive_if_required()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying or not self._framing.in_head:  # trailers are no headers (RFC 9110, 6.5.1)
            return
        headers = self.headers
        if len(headers) >= MAX_HEADERS:
            raise HEAD_TOO_LARGE  # the parser stops
        # Does what uvicorn's `on_header` does, without reading the name a second time.
        name = name.lower()
        if name in FRAMING_HEADERS:
            value = self._framing.take_header(name, value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        if refusal := self._framing.refusal(self.parser.get_http_version()):
            raise refusal
        super().on_headers_complete()
        self._framing.complete_head()
        self._offered = self.parser.should_upgrade()
        self._discarded = 0

    def on_body(self, body: bytes) -> None:
        self._framing.take_body(len(body))
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARDED_BYTES:
                self._close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offered and self._framing.has_body():
            # The parser considers such a request complete at the end of its head.
            self._offered = False
            return
        super().on_message_complete()
        self._arriving = False
        self._framing.end()
        self._reading_timer.stop()
        if self.cycle.response_complete:  # answered before its body was here
            self._rest()

    def _queue_is_full(self) -> bool:
        return len(self.pipeline) >= _QUEUE_FULL or (bool(self.pipeline) and self._queued_bytes > _QUEUE_FULL_BYTES)

    # Answers

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The usual case: no other request waits or arrives, and uvicorn waits for the next one.
        goes_on = self._last_words is None and not self._half_closed
        if goes_on and self.timeout_keep_alive_task is not None and self._held is None and not self._arriving:
            self._queued_bytes = 0
            self._limits.idle(self)
            return
        if self._is_lost:
            return
        if self.transport.is_closing():
            self._watch_writing()
            return
        if not self.pipeline:
            self._queued_bytes = 0
        if self._held is not None and not self._queue_is_full():
            data, start = self._held
            self._held = None
            self.flow.release()
            self._parse(data, start)
        self._unset_keepalive_if_required()
        if self._held is not None or self._owes_answer():
            return
        if self._last_words is not None:
            self._say_last_words()
        elif self._half_closed:
            self._close()
        elif not self._arriving:
            self._rest()

    def _owes_answer(self) -> bool:
        """Whether a complete request has not been answered completely yet."""
        cycle: Any = self.cycle  # of the last request whose head is complete; None before the first
        if self.pipeline:
            return True
        body_arrives = self._arriving and not self._framing.in_head
        return cycle is not None and not cycle.response_complete and not body_arrives

    def _end_with(self, last_words: bytes) -> None:
        """End the connection with an answer, after the answers before it. Nothing more is read."""
        if self._last_words is not None:
            return
        self._last_words = last_words
        self._held = None
        self.flow.hold()
        if not self._owes_answer():
            self._say_last_words()

    def _say_last_words(self) -> None:
        """Send the last answer, unless a part of another answer to the same request has been sent."""
        cycle: Any = self.cycle
        body_arrives = self._arriving and not self._framing.in_head
        if self._last_words and not self.transport.is_closing() and not (body_arrives and cycle.response_started):
            self.transport.write(self._last_words)
        self._close()

    # Time

    def _start_read_timer(self) -> None:
        self._reading_timer.start(self.loop, self._limits.read_timeout_s, self._read_too_slow)

    def _read_too_slow(self) -> None:
        self._reading_timer.stop()
        if not self._arriving:  # nothing ever arrived
            self._close()
        elif self._owes_answer():  # perhaps nothing was read meanwhile
            self._start_read_timer()
        else:
            self._limits.cut("slow_request")
            limit = f"{self._limits.read_timeout_s:g} s (FUNNELRANK_READ_TIMEOUT_MS)"
            self._end_with(whole_answer(RequestTooSlow(f"the request did not arrive within {limit}")))
