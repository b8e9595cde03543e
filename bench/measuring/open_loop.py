"""An open-loop load of `POST /rank`: requests are sent when they are due, over raw connections."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
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

    @property
    def requests(self) -> int:
        return sum(map(len, self.ms.values()))

    def in_time(self, within_ms: float) -> float:
        """The share of the requests that were answered with a ranking before the deadline."""
        return sum(ms <= within_ms for ms in self.ms.get(200, [])) / max(1, self.requests)

    def goodput(self, within_ms: float) -> float:
        """Rankings per second that were answered before the deadline."""
        return sum(ms <= within_ms for ms in self.ms.get(200, [])) / self.seconds

    def percentile(self, share: float) -> float:
        answered = sorted(self.ms.get(200, [0.0]))
        return answered[min(int(share * len(answered)), len(answered) - 1)]


class Client:
    """Open connections; the next request that is due uses a free one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def answer(self, request: bytes) -> tuple[int, bytes]:
        """Read one answer to its end; return its status and its body."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1]), body

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()


def request_of(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return _HEAD.format(len(content)).encode() + content


def due_times(rate: float, seconds: float, seed: int | None) -> Iterator[float]:
    """Yield the seconds from the start at which requests are due: evenly spread, or with a seed a Poisson process."""
    if seed is None:
        yield from (i / rate for i in range(int(rate * seconds)))
        return
    rng = random.Random(seed)  # nosec B311 # arrivals that can be repeated, no secret
    due = rng.expovariate(rate)
    while due < seconds:
        yield due
        due += rng.expovariate(rate)


async def offered(
    client: Client,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    settling: float = 0.0,
    seed: int | None = None,
) -> Load:
    """Send `rate` requests per second, the given ones in turn, whether or not they are answered.

    Those of the first `settling` seconds are sent and not counted.
    """
    load = Load(seconds - settling)
    start = time.perf_counter()
    waiting = []

    async def one(request: bytes, due: float) -> None:
        load.lag_ms = max(load.lag_ms, (time.perf_counter() - due) * 1000)
        status, _ = await client.answer(request)
        if due < start + settling:
            return
        load.ms.setdefault(status, []).append((time.perf_counter() - due) * 1000)

    for request, after in zip(cycle(requests), due_times(rate, seconds, seed)):  # the requests repeat without end
        due = start + after
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        waiting.append(asyncio.create_task(one(request, due)))
    await asyncio.gather(*waiting)
    return load


async def highest_rate(
    meets: Callable[[float], Awaitable[bool]], start: float, factor: float, bisections: int = 0, steps: int = 16
) -> float:
    """Return the highest measured rate that meets a condition.

    From `start` the rate is multiplied by `factor` while it meets the condition, or divided until it does, `steps`
    times at most; then the last interval is halved (by ratio) `bisections` times. The result is below the highest
    possible rate by a factor of `factor ** (1 / 2 ** bisections)` at most. Raises RuntimeError if no rate meets the
    condition.
    """
    rises = await meets(start)
    low = start
    high = start
    for _ in range(steps):
        if rises:
            high = low * factor
            if not await meets(high):
                break
            low = high
        else:
            high = low
            low = low / factor
            if await meets(low):
                break
    else:
        if not rises:
            raise RuntimeError(f"not even {low:.3g} a second can be answered in time")
    for _ in range(bisections):
        middle = (low * high) ** 0.5
        if await meets(middle):
            low = middle
        else:
            high = middle
    return low
