"""Tests the read connection: order, passwords, losses."""

import asyncio
import os
import signal
from contextlib import closing, suppress
from typing import Any

import pytest

from service.addresses.redis_url import address_of
from service.sample.embedded_redis import EmbeddedRedis, free_port
from service.store.base import StoreDown
from service.store.redis.reading.wire import Wire, packed


async def asked(url: str, *command: str, timeout: float = 20.0) -> Any:
    wire = Wire(address_of(url))
    try:
        return (await wire.ask(packed(*command), 1, timeout))[0]
    finally:
        wire.close()


async def test_many_requests_at_once_get_their_own_answers(redis_server: EmbeddedRedis) -> None:
    wire = Wire(address_of(redis_server.url))
    asks = [wire.ask(packed("ECHO", str(i)) + packed("ECHO", "x" * (i * 100)), 2, 5) for i in range(200)]
    try:
        replies = await asyncio.gather(*asks)
    finally:
        wire.close()
    for i, (first, second) in enumerate(replies):
        assert (int(first), len(second)) == (i, i * 100)


async def test_passwords_users_and_databases_of_the_url_are_used() -> None:
    with EmbeddedRedis("--requirepass", "hush", "--user", "reader", "on", ">secret", "~*", "+@all") as server:
        plain = f"127.0.0.1:{server.port}"
        assert await asked(f"redis://:hush@{plain}/0", "PING") == b"PONG"
        assert await asked(f"redis://reader:secret@{plain}/3", "PING") == b"PONG"
        with pytest.raises(StoreDown, match="WRONGPASS"):
            await asked(f"redis://:wrong@{plain}/0", "PING")
        with pytest.raises(StoreDown, match="NOAUTH"):
            await asked(f"redis://{plain}/0", "PING")
        with pytest.raises(StoreDown, match="DB index"):
            await asked(f"redis://:hush@{plain}/99", "PING")


async def test_a_unix_socket_is_an_address_too(tmp_path: Any) -> None:
    with EmbeddedRedis("--unixsocket", str(tmp_path / "redis.sock")):
        assert await asked(f"unix://{tmp_path}/redis.sock", "PING") == b"PONG"


async def test_nobody_listening_is_a_store_that_is_down() -> None:
    with pytest.raises(StoreDown, match="cannot connect"):
        await asked(f"redis://127.0.0.1:{free_port()}/0", "PING")


async def test_an_answer_that_is_not_redis_is_a_store_that_is_down() -> None:
    async def http(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreDown):
            await asked(f"redis://127.0.0.1:{port}/0", "PING")


async def test_a_redis_that_hangs_costs_no_more_than_the_timeout_and_is_used_again_after() -> None:
    with EmbeddedRedis() as server, closing(Wire(address_of(server.url))) as wire:
        assert await wire.ask(packed("PING"), 1, 20) == [b"PONG"]
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(StoreDown, match="did not answer within 50 ms"):
            await wire.ask(packed("ECHO", "late"), 1, 0.05)
        os.kill(server.pid, signal.SIGCONT)
        assert await wire.ask(packed("ECHO", "now"), 1, 20) == [b"now"]


async def test_a_redis_that_accepts_and_says_nothing_leaves_no_connection_behind(redis_server: EmbeddedRedis) -> None:
    closed = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        await reader.read(1000)
        closed.set()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        wire = Wire(address_of(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"))
        with pytest.raises(StoreDown, match="within 50 ms"):
            await wire.ask(packed("PING"), 1, 0.05)
        with pytest.raises(StoreDown, match="no answer"):
            await wire.ask(packed("PING"), 1, 5)
        await asyncio.wait_for(closed.wait(), 5)
        wire.close()


async def test_a_restarted_redis_is_found_again() -> None:
    with EmbeddedRedis() as server, closing(Wire(address_of(server.url))) as wire:
        assert await wire.ask(packed("PING"), 1, 20) == [b"PONG"]
        server.kill()
        with pytest.raises(StoreDown):
            await wire.ask(packed("PING"), 1, 20)
        server.start()
        # After a failure there is a pause before the next attempt to connect.
        async with asyncio.timeout(60):
            while True:
                with suppress(StoreDown):
                    assert await wire.ask(packed("PING"), 1, 20) == [b"PONG"]
                    break
                await asyncio.sleep(0.02)
