"""A server that answers as a loaded Redis does, except for the replies that a test replaces by invalid ones.

Only a broken proxy sends such replies, so they cannot be had from Redis.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis

from features.layouts import Layouts

IDS = ["a", "b", "c", "d", "e"]
Answer = Callable[[list[bytes]], bytes | None]


def encoded(value: Any) -> bytes:
    """Encode a value as RESP3."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, bool):
        return b"#t\r\n" if value else b"#f\r\n"
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, float):
        return f",{value!r}\r\n".encode()
    if isinstance(value, Exception):
        return b"-%b\r\n" % str(value).encode()
    if isinstance(value, dict):
        return b"%%%d\r\n" % len(value) + b"".join(encoded(k) + encoded(v) for k, v in value.items())
    return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))


@asynccontextmanager
async def answering(answer: Answer, layouts: Layouts) -> AsyncIterator[str]:
    """Start a server that answers as a loaded Redis does, unless `answer` gives another reply; yield its address."""
    assert layouts.behaviour is not None
    member = b"\0" * 8 + layouts.behaviour.empty(1).tobytes()
    port = 0

    def usual(command: list[bytes]) -> bytes:
        name = command[0].upper()
        if name == b"CLUSTER":
            return encoded([[0, 16383, [b"127.0.0.1", port, b"node"]]])
        if name == b"GET":
            return encoded(layouts.user.pack({"user_id": "712"}))
        if name == b"MGET":
            return encoded([row(layouts, key.decode().rpartition(":i:")[2]) for key in command[1:]])
        if name.startswith(b"ZREV"):
            return encoded([member] * 3)
        if name == b"HGETALL":
            return encoded({layouts.fingerprint.encode(): b'{"loaded_at": 1}'})
        return b"+OK\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links.add(asyncio.current_task())
        commands = hiredis.Reader()
        # A client that drops a connection with a reply still unread resets it.
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(65536):
                commands.feed(content)
                while (command := commands.gets()) is not False:
                    other = None if command[0].upper() in (b"PING", b"HELLO", b"CLIENT") else answer(command)
                    writer.write(usual(command) if other is None else other)
            writer.close()
            await writer.wait_closed()

    links: set[Any] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"127.0.0.1:{port}/"
    finally:
        server.close()
        await asyncio.wait(links, timeout=5)


def row(layouts: Layouts, item_id: str) -> bytes:
    return layouts.item.pack({"item_id": item_id, "price": float(len(item_id) + ord(item_id[0]))})
