"""One socket to Redis: commands are pipelined on it, replies are parsed by hiredis and matched in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import hiredis

from service.store.base import StoreDown

SILENCE_SECONDS = 1.0
Decode = Callable[[list[Any]], Any]
OnPush = Callable[[list[Any]], None]


class WrongReply(StoreDown):
    """Redis, or a proxy before it, sent an invalid reply, so that nothing on this connection can be trusted."""


class _Pending:
    """Commands that were sent together, and their replies so far."""

    __slots__ = ("count", "decode", "future", "replies", "sent_at")

    def __init__(self, count: int, future: "asyncio.Future[Any]", decode: Decode | None) -> None:
        self.count = count
        self.future = future
        self.decode = decode
        self.replies: list[Any] = []
        self.sent_at = monotonic()


class Connection(asyncio.Protocol):
    """Sends commands and reads replies. Push messages go to `on_push`, in order with the replies."""

    def __init__(self, on_push: OnPush | None) -> None:
        self.pushes = False
        self._on_push = on_push
        self._reader = hiredis.Reader()
        self._waiting: deque[_Pending] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self.close(StoreDown(f"the answer of Redis is not RESP: {error}"))
        except WrongReply as error:
            self.close(error)

    def _take(self, reply: Any) -> None:
        if type(reply) is hiredis.PushNotification:
            if self._on_push is not None:
                self._on_push(reply)
            return
        if not self._waiting:
            raise hiredis.ProtocolError("a reply without a command")
        pending = self._waiting[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self._waiting.popleft()
            self._finish(pending)

    def _finish(self, pending: _Pending) -> None:
        """Decode before the next message is parsed, even if the caller has given up."""
        future = pending.future
        try:
            result = pending.replies if pending.decode is None else pending.decode(pending.replies)
        except StoreDown as error:
            if not future.done():
                future.set_exception(error)
            if isinstance(error, WrongReply):
                raise
            return
        if not future.done():
            future.set_result(result)

    def connection_lost(self, error: Exception | None) -> None:
        self.close(StoreDown(f"the connection to Redis was lost: {error or 'closed by Redis'}"))

    def close(self, reason: StoreDown) -> None:
        if self._transport is not None:
            self._transport.abort()
        while self._waiting:
            pending = self._waiting.popleft()
            if not pending.future.done():
                pending.future.set_exception(reason)

    def send(self, packed: bytes, count: int, decode: Decode | None = None) -> "asyncio.Future[Any]":
        """Send `count` packed commands in one write. The future receives their replies, or the result of `decode`."""
        assert self._transport is not None
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Pending(count, future, decode))
        self._transport.write(packed)
        return future

    @property
    def silent(self) -> bool:
        """Return whether Redis has not answered for so long that the connection counts as dead."""
        return bool(self._waiting) and monotonic() - self._waiting[0].sent_at > SILENCE_SECONDS


def give_up(connection: Connection, answer: "asyncio.Future[Any]", timeout: float) -> None:
    """Stop waiting for a late answer. Close the connection if it has been silent for long."""
    if answer.done():
        return
    answer.set_exception(StoreDown(f"Redis did not answer within {timeout * 1000:.0f} ms"))
    if connection.silent:
        connection.close(StoreDown("Redis went silent"))
