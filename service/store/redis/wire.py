"""Owns the read connection to Redis: one socket per worker, requests pipelined on it, replies parsed by hiredis.

A ranking asks three short questions at once. redis-py's asyncio client spends 250 - 300 microseconds of CPU on that for 200 items, which is
about what a small model costs; this does it in 40. Writes, where that does not matter, use redis-py.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

_CONNECT_PAUSE_SECONDS = 0.1
_SILENCE_SECONDS = 1.0


class StoreDown(Exception):  # noqa: N818 - a state that is told, not a mistake
    """Redis cannot be reached, refuses, or does not answer in time."""


def packed(*command: str) -> bytes:
    """One command as it goes over the wire."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]


class _Pending:
    """Commands that were sent together and the replies that came so far."""

    __slots__ = ("count", "future", "replies", "sent_at", "then")

    def __init__(
        self, count: int, future: "asyncio.Future[list[Any]]", then: Callable[[list[Any]], None] | None
    ) -> None:
        self.count = count
        self.future = future
        self.then = then
        self.replies: list[Any] = []
        self.sent_at = monotonic()


class _Socket(asyncio.Protocol):
    """Requests out, replies in, in one order; what Redis tells unasked goes to `told` at its place among the replies."""

    def __init__(self, told: Callable[[list[Any]], None] | None) -> None:
        self.told = told
        self.pushes = False
        self.reader = hiredis.Reader()
        self.waiting: deque[_Pending] = deque()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def data_received(self, data: bytes) -> None:
        try:
            self.reader.feed(data)
            while (reply := self.reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self.close(StoreDown(f"Redis answered what is not RESP: {error}"))

    def _take(self, reply: Any) -> None:
        if type(reply) is hiredis.PushNotification:
            if self.told is not None:
                self.told(reply)
            return
        if not self.waiting:
            raise hiredis.ProtocolError("a reply that nobody asked for")
        pending = self.waiting[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self.waiting.popleft()
            if pending.then is not None:
                pending.then(pending.replies)
            if not pending.future.done():
                pending.future.set_result(pending.replies)

    def connection_lost(self, error: Exception | None) -> None:
        self.close(StoreDown(f"the connection to Redis was lost: {error or 'closed by Redis'}"))

    def close(self, reason: StoreDown) -> None:
        if self.transport is not None:
            self.transport.abort()
        while self.waiting:
            pending = self.waiting.popleft()
            if not pending.future.done():
                pending.future.set_exception(reason)

    def send(
        self, packed: bytes, count: int, then: Callable[[list[Any]], None] | None = None
    ) -> "asyncio.Future[list[Any]]":
        assert self.transport is not None
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.waiting.append(_Pending(count, future, then))
        self.transport.write(packed)
        return future

    @property
    def silent(self) -> bool:
        """Whether Redis owes an answer for so long that the connection must be taken for dead."""
        return bool(self.waiting) and monotonic() - self.waiting[0].sent_at > _SILENCE_SECONDS


class Wire:
    """The connection of one worker; connects when first asked, and again after a loss.

    With `told` it speaks RESP3, in which Redis may tell something unasked (that a key changed): `told` gets each such message, in order
    with the replies. `connection` counts the connections made, `pushes` says whether the present one can be told anything, and `prefixes` are
    those of the keys that Redis was asked on it to tell of.
    """

    def __init__(self, url: str, told: Callable[[list[Any]], None] | None = None) -> None:
        self._told = told
        self.connection = 0
        self._options: dict[str, Any] = dict(parse_url(url))
        self._socket: _Socket | None = None
        self._connecting: asyncio.Task[_Socket] | None = None
        self.prefixes: set[str] = set()
        self._refused_until = 0.0
        self._refusal = ""

    @property
    def pushes(self) -> bool:
        return self._socket is not None and self._socket.pushes

    @property
    def open(self) -> bool:
        return self._socket is not None and self._socket.open

    @property
    def refusal(self) -> str:
        """Why the last attempt to connect failed; empty where it did not, or none was made."""
        return self._refusal

    async def connect(self, timeout: float) -> None:
        """See to it that there is a connection. Raises StoreDown."""
        if self._socket is None or not self._socket.open:
            try:
                async with asyncio.timeout(timeout):
                    await self._connected()
            except TimeoutError:
                raise StoreDown(f"no connection to Redis within {timeout * 1000:.0f} ms") from None

    async def ask(
        self, packed: bytes, count: int, timeout: float, then: Callable[[list[Any]], None] | None = None
    ) -> list[Any]:
        """Send `count` packed commands in one write and wait for all their replies; an error reply stands in the list.

        `then` gets the replies the moment they are read, before anything that Redis sent after them, and also when nobody waits any more.
        Raises StoreDown where Redis is away or does not answer within `timeout` seconds.
        """
        end = monotonic() + timeout
        socket = self._socket
        if socket is None or not socket.open:
            await self.connect(timeout)
            socket = self._socket
            assert socket is not None
        answered = socket.send(packed, count, then)
        # asyncio.timeout would cost ten times as much.
        late = asyncio.get_running_loop().call_later(end - monotonic(), _too_late, socket, answered, timeout)
        try:
            return await answered
        finally:
            late.cancel()

    def send(self, packed: bytes, count: int, then: Callable[[list[Any]], None]) -> "asyncio.Future[list[Any]]":
        """As `ask`, without waiting: for who waits for several connections, and says `too_late` when that has been for too long. Raises StoreDown."""
        if self._socket is None or not self._socket.open:
            raise StoreDown(self._refusal or "not connected to Redis")
        return self._socket.send(packed, count, then)

    def too_late(self, answered: "asyncio.Future[list[Any]]", timeout: float) -> None:
        """Whoever waits for what was sent is told so."""
        if self._socket is not None:
            _too_late(self._socket, answered, timeout)

    def tell(self, packed: bytes, then: Callable[[list[Any]], None]) -> None:
        """Send one command without waiting, ahead of whatever is asked next on this connection; `then` gets its reply."""
        if self._socket is not None and self._socket.open:
            self._socket.send(packed, 1, then).add_done_callback(retrieve)

    async def _connected(self) -> _Socket:
        """The one attempt to connect that all waiting requests share; after a failure the next starts a moment later."""
        if monotonic() < self._refused_until:
            raise StoreDown(self._refusal)
        return await asyncio.shield(self._attempt())

    def connect_soon(self) -> None:
        """Try again beside whatever goes on, with nobody waiting for it."""
        if monotonic() >= self._refused_until:
            self._attempt()

    def _attempt(self) -> "asyncio.Task[_Socket]":
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(retrieve)
        return self._connecting

    async def _connect(self) -> _Socket:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                socket = await self._open()
                try:
                    await self._greet(socket)
                except BaseException:
                    socket.close(StoreDown("Redis did not greet"))
                    raise
        except (OSError, TimeoutError, StoreDown) as error:
            self._refusal = f"cannot connect to Redis: {str(error) or 'no answer'}"
            self._refused_until = monotonic() + _CONNECT_PAUSE_SECONDS
            raise StoreDown(self._refusal) from None
        self._socket = socket
        self._refusal = ""
        self.prefixes.clear()
        self.connection += 1
        return socket

    async def _open(self) -> _Socket:
        loop = asyncio.get_running_loop()
        options = self._options
        if options.get("connection_class") is UnixDomainSocketConnection:
            return (await loop.create_unix_connection(self._protocol, options["path"]))[1]
        context = _tls(options) if options.get("connection_class") is SSLConnection else None
        return (
            await loop.create_connection(
                self._protocol, options.get("host", "localhost"), options.get("port", 6379), ssl=context
            )
        )[1]

    def _protocol(self) -> _Socket:
        return _Socket(self._told)

    async def _greet(self, socket: _Socket) -> None:
        commands: list[tuple[str, ...]] = []
        if password := self._options.get("password"):
            user = self._options.get("username")
            commands.append(("AUTH", user, password) if user else ("AUTH", password))
        if database := self._options.get("db"):
            commands.append(("SELECT", str(database)))
        commands.append(("PING",))
        for reply in await socket.send(b"".join(packed(*c) for c in commands), len(commands)):
            if isinstance(reply, Exception):
                raise StoreDown(f"Redis refuses: {reply}")
        if self._told is not None:  # a Redis before 6, or one that forbids it, refuses and stays with RESP2
            (hello,) = await socket.send(packed("HELLO", "3"), 1)
            socket.pushes = not isinstance(hello, Exception)

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._socket is not None:
            self._socket.close(StoreDown("the service stops"))
            self._socket = None


def _too_late(socket: _Socket, answered: "asyncio.Future[list[Any]]", timeout: float) -> None:
    """The caller gets no answer in time; a connection that has been silent for long is given up."""
    if answered.done():
        return
    answered.set_exception(StoreDown(f"Redis did not answer within {timeout * 1000:.0f} ms"))
    if socket.silent:
        socket.close(StoreDown("Redis went silent"))


def retrieve(task: "asyncio.Future[Any]") -> None:
    """Look at the outcome, so that an attempt nobody waits for any more does not end up as a warning."""
    if not task.cancelled():
        task.exception()


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """The TLS context that redis-py would make of the same URL (`ssl_cert_reqs=none`, `ssl_ca_certs=...`)."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") in ("none", ssl.CERT_NONE):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
