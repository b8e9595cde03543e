"""Sends answers: aborts a connection whose answer does not progress, and writes errors as complete answers."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from secrets import token_hex

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.middleware import WRITE_ANSWER
from service.api.problems import PROBLEM_TYPE, envelope, presentation_of
from service.errors import ServiceError
from service.server.protocol.answering import write_answer
from service.server.protocol.connections import Connections

_INT = struct.Struct("i")


class ReadingGate(FlowControl):
    """uvicorn's flow control, except that reading stays paused while received bytes are held back."""

    _held = False

    def hold(self) -> None:
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if self.read_paused and not self._held:
            super().resume_reading()


def unacknowledged(connection: socket.socket) -> int:
    """Return the bytes in the kernel that the other side has not acknowledged; 0 if the kernel does not tell."""
    if sys.platform != "linux":
        return 0
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
    return int(_INT.unpack(answer)[0])


class Timer:
    """A timer with at most one pending call."""

    _due: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._due is not None

    def start(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]) -> None:
        self.stop()
        self._due = loop.call_later(seconds, callback)

    def stop(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class WatchedWriting(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a time limit for an answer that does not progress."""

    _limits: Connections
    _is_lost = False
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = ReadingGate(transport)
        self._writing_timer = Timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._writing_timer.stop()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["extensions"] = {WRITE_ANSWER: write_answer}  # type: ignore[dict-item]

    def close_idle(self) -> None:
        self._close()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _rest(self) -> None:
        """Wait for the next request as long as a connection may stay idle."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._limits.idle(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing_timer.stop()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_writing()

    def _watch_writing(self) -> None:
        if not self._writing_timer.is_running and not self._is_lost:
            self._unsent = self._unsent_bytes()
            self._writing_timer.start(self.loop, self._limits.write_timeout_s, self._check_writing)

    def _unsent_bytes(self) -> int:
        """Count the unsent bytes, also those in the kernel's buffer, which may still hold many."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            return 0
        return waiting + unacknowledged(self.transport.get_extra_info("socket"))

    def _check_writing(self) -> None:
        """Abort a connection if bytes wait and none was sent since the last check."""
        self._writing_timer.stop()
        unsent = self._unsent_bytes()
        if unsent and unsent >= self._unsent:
            self._limits.cut("slow_reader")
            self.transport.abort()
        elif unsent:
            self._watch_writing()


def whole_answer(error: ServiceError) -> bytes:
    """Return an error as a complete HTTP answer that ends the connection."""
    body = envelope(error, token_hex(16))
    presentation = presentation_of(error)
    headers = {"content-type": PROBLEM_TYPE, "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}\r\n" for name, value in {**presentation.headers, **headers}.items()]
    return STATUS_LINE[presentation.status] + "".join(lines).encode() + b"\r\n" + body
