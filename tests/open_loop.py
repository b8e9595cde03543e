"""An open-loop load of `POST /rank` for tests: requests are sent when they are due, over raw connections."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

_HEAD = "POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@dataclass
class Load:
    """The result of a load.

    Milliseconds from the due time to the last byte, by status; `lag_ms` is the largest delay of the client itself.
    """

    seconds: float
    ms: dict[int, list[float]] = field(default_factory=dict)
    lag_ms: float = 0.0

    def goodput(self, within_ms: float) -> float:
        """Rankings per second that were answered before the deadline."""
        return sum(ms <= within_ms for ms in self.ms.get(200, [])) / self.seconds

    def percentile(self, share: float) -> float:
        answered = sorted(self.ms.get(200, [0.0]))
        return answered[min(int(share * len(answered)), len(answered) - 1)]


class Client:
    """Connections that are kept open; the next request that is due uses a free one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> int:
        """Read one answer to its end; return its status."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()


def request_of(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return _HEAD.format(len(content)).encode() + content


async def offered(client: Client, request: bytes, rate: float, seconds: float, settling: float = 0.0) -> Load:
    """Send `rate` requests per second, evenly spread, whether or not they are answered.

    Those of the first `settling` seconds are sent and not counted.
    """
    load = Load(seconds - settling)
    start = time.perf_counter()
    waiting = []

    async def one(due: float) -> None:
        load.lag_ms = max(load.lag_ms, (time.perf_counter() - due) * 1000)
        status = await client.ask(request)
        if due < start + settling:
            return
        load.ms.setdefault(status, []).append((time.perf_counter() - due) * 1000)

    for i in range(int(rate * seconds)):
        due = start + i / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        waiting.append(asyncio.create_task(one(due)))
    await asyncio.gather(*waiting)
    return load


async def sustainable(
    client: Client, request: bytes, within_ms: float, start: float = 10.0, factor: float = 1.3, seconds: float = 1.5
) -> float:
    """The highest of the rates `start`, `start * factor`, ... at which nearly all rankings meet the deadline."""
    rate = start
    best = start
    while (await offered(client, request, rate, seconds)).goodput(within_ms) >= 0.97 * rate:
        best = rate
        rate = rate * factor
    return best
