"""A TCP proxy in front of a Redis, for tests of faults: it can change its Redis, stay mute, add delay and use TLS."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self


class RedisProxy:
    """Passes bytes between callers and a Redis at the port `upstream`, in a thread with an event loop of its own.

    With a certificate it uses TLS towards its callers. It delays replies by `delay_s`, which may grow. While `mute`, it
    accepts everything and passes nothing on.
    """

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None, delay_s: float = 0.0) -> None:
        self.mute = False
        self.port = 0
        self._upstream = upstream
        self._tls = tls
        self.delay_s = delay_s
        self._links: set[asyncio.StreamWriter] = set()
        self._relays: set[Any] = set()
        self._started = threading.Event()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lead_to(self, upstream: int) -> None:
        """New connections go to another Redis; those that are open are cut."""

        def change() -> None:
            self._upstream = upstream
            self._cut_links()

        self._loop.call_soon_threadsafe(change)

    @contextmanager
    def running(self) -> Iterator[Self]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            assert self._started.wait(10)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        self._cut_links()
        # Each relay notices the end of its links and closes the other side.
        if self._relays:
            await asyncio.wait(self._relays, timeout=10)

    def _cut_links(self) -> None:
        for link in self._links:
            link.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.add(asyncio.current_task())
        self._links.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            self._close(writer)
            return
        self._links.add(up_writer)
        try:
            await asyncio.gather(
                self._copy(reader, up_writer), self._copy(up_reader, writer, delayed=True), return_exceptions=True
            )
        finally:
            self._close(writer)
            self._close(up_writer)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._links.discard(writer)
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delayed: bool = False) -> None:
        """Pass bytes on until either side ends, then end the other side."""
        try:
            while content := await reader.read(65536):
                if self.mute:
                    continue
                if delayed and self.delay_s:
                    self._loop.call_later(self.delay_s, writer.write, content)
                else:
                    writer.write(content)
                    await writer.drain()
        finally:
            writer.close()
