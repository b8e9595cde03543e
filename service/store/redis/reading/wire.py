"""The read connection of one worker: it connects at the first request, and again after a loss.

A ranking sends three short commands at once. redis-py's asyncio client needs three to four times as much CPU for that
(docs/decisions/0001-redis-wire.md). Writes use redis-py, because their cost does not matter.
"""

import asyncio
from itertools import count as counting
from time import monotonic
from typing import Any

import hiredis

from service.addresses.redis_url import Address, RedisAddress
from service.store.base import StoreDown
from service.store.redis.reading.connection import SILENCE_SECONDS, Connection, Decode, OnPush, give_up

_CONNECT_PAUSE_SECONDS = 0.1
_CONNECTIONS = counting(1)


def packed(*command: str) -> bytes:
    """Encode one command as RESP bytes."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]


class Wire:
    """The connection to one Redis, or to one `node` of a cluster.

    With `on_push` it uses RESP3, in which Redis may send push messages (for example, that a key changed): `on_push`
    gets each message, in order with the replies. `connection` is the number of the present connection, which no other
    connection of this process has, and `prefixes` are the prefixes of the keys whose changes Redis was asked to
    announce on it. With `of_replica`, a cluster's replica answers reads.
    """

    def __init__(
        self,
        address: RedisAddress,
        on_push: OnPush | None = None,
        node: Address | None = None,
        of_replica: bool = False,
    ) -> None:
        self._address = address
        self._node = node or (address.nodes[0] if address.nodes else None)
        self._on_push = on_push
        self._of_replica = of_replica
        self._current: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._refused_until = 0.0
        self._refusal = ""
        self.connection = 0
        self.prefixes: set[str] = set()

    @property
    def pushes(self) -> bool:
        """Whether Redis can send push messages on the present connection."""
        return self._current is not None and self._current.pushes

    @property
    def open(self) -> bool:
        return self._current is not None and self._current.open

    @property
    def refusal(self) -> str:
        """Why the last attempt to connect failed; empty if it succeeded, or if there was none."""
        return self._refusal

    async def connect(self, timeout: float) -> None:
        """Wait for a connection. Raises StoreDown."""
        if self._current is not None and self._current.open:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._connected()
        except TimeoutError:
            raise StoreDown(f"no connection to Redis within {timeout * 1000:.0f} ms") from None

    async def ask(self, packed: bytes, count: int, timeout: float, decode: Decode | None = None) -> Any:
        """Send `count` packed commands in one write and wait for their replies; an error reply is a list element.

        `decode` converts the replies to the result. It runs as soon as they are parsed, before anything that Redis
        sends after them, even if the caller has given up. Raises StoreDown if Redis is away or does not answer within
        `timeout` seconds.
        """
        end = monotonic() + timeout
        connection = self._current
        if connection is None or not connection.open:
            await self.connect(timeout)
            connection = self._current
            assert connection is not None
        answer = connection.send(packed, count, decode)
        # asyncio.timeout would cost ten times as much.
        late = asyncio.get_running_loop().call_later(end - monotonic(), give_up, connection, answer, timeout)
        try:
            return await answer
        finally:
            late.cancel()

    def send(self, packed: bytes, count: int, decode: Decode) -> "asyncio.Future[Any]":
        """Send as `ask` does, but without waiting, for callers that wait for several nodes. Raises StoreDown."""
        if self._current is None or not self._current.open:
            raise StoreDown(self._refusal or "not connected to Redis")
        return self._current.send(packed, count, decode)

    def give_up(self, answer: "asyncio.Future[Any]", timeout: float) -> None:
        """Stop waiting for an answer to `send`."""
        if self._current is not None:
            give_up(self._current, answer, timeout)

    def send_ahead(self, packed: bytes, decode: Decode) -> None:
        """Send one command before the next request on this connection, without waiting for the reply."""
        if self._current is not None and self._current.open:
            self._current.send(packed, 1, decode).add_done_callback(retrieve)

    async def _connected(self) -> Connection:
        """Return the connection attempt that all waiting requests share. After a failure the next attempt is
        delayed.
        """
        if monotonic() < self._refused_until:
            raise StoreDown(self._refusal)
        return await asyncio.shield(self._attempt())

    def connect_soon(self) -> None:
        """Try to connect in the background."""
        if monotonic() >= self._refused_until:
            self._attempt()

    def _attempt(self) -> "asyncio.Task[Connection]":
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(retrieve)
        return self._connecting

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                connection = await self._open()
                try:
                    await self._greet(connection)
                except BaseException:
                    connection.close(StoreDown("Redis did not greet"))
                    raise
        except (OSError, TimeoutError, StoreDown) as error:
            self._refusal = f"cannot connect to Redis: {str(error) or 'no answer'}"
            self._refused_until = monotonic() + _CONNECT_PAUSE_SECONDS
            raise StoreDown(self._refusal) from None
        self._current = connection
        self._refusal = ""
        self.prefixes.clear()
        self.connection = next(_CONNECTIONS)
        return connection

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._node is None:
            return (await loop.create_unix_connection(self._new, self._address.path))[1]
        host, port = self._node
        return (await loop.create_connection(self._new, host, port, ssl=self._address.tls_context))[1]

    def _new(self) -> Connection:
        return Connection(self._on_push)

    async def _greet(self, connection: Connection) -> None:
        """Log in as redis-py does, pick the database, and ask for RESP3."""
        user = self._address.username
        password = self._address.password
        commands: list[tuple[str, ...]] = []
        if user or password:
            commands.append(("AUTH", user, password or "") if user else ("AUTH", password or ""))
        if self._address.database:
            commands.append(("SELECT", str(self._address.database)))
        if self._of_replica and self._address.is_cluster:
            commands.append(("READONLY",))
        commands.append(("PING",))
        for reply in await connection.send(b"".join(packed(*c) for c in commands), len(commands)):
            if isinstance(reply, Exception):
                raise StoreDown(f"Redis refuses: {reply}")

        # A Redis before version 6, or one that forbids RESP3, refuses and continues with RESP2.
        if self._on_push is not None:
            (hello,) = await connection.send(packed("HELLO", "3"), 1)
            connection.pushes = not isinstance(hello, Exception)

    def drop(self, reason: StoreDown) -> None:
        """Close the present connection; the next request opens a new one."""
        if self._current is not None:
            self._current.close(reason)

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._current is not None:
            self._current.close(StoreDown("the service stops"))
            self._current = None


def retrieve(task: "asyncio.Future[Any]") -> None:
    """Read the result of a future that nobody waits for, so that asyncio does not warn about it."""
    if not task.cancelled():
        task.exception()
