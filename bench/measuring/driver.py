"""The load generator: a process that sends bodies over keep-alive connections and reads the answers.

It reads one line of JSON from stdin: {"port", "path", "bodies" (a file with one body per line), "requests",
"connections"}, and writes one line: the number of answers with each status. No figure includes its own cost, because
only the server's CPU time is measured.
"""

import asyncio
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


async def _connection(port: int, requests: Iterator[bytes], statuses: "Counter[int]", wrong: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        status = int(head[9:12])
        statuses[status] += 1
        if status != 200:
            wrong.append(body)
    writer.close()


async def _drive(port: int, path: str, bodies: list[bytes], requests: int, connections: int) -> dict[str, Any]:
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    made = [head.encode() % len(body) + body for body in bodies]
    statuses: Counter[int] = Counter()
    wrong: list[bytes] = []
    todo = itertools.islice(itertools.cycle(made), requests)
    await asyncio.gather(*(_connection(port, todo, statuses, wrong) for _ in range(connections)))
    return {"statuses": dict(statuses), "wrong": wrong[0].decode()[:500] if wrong else ""}


class Driver:
    """The handle of the load generator's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.measuring.driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def drive(self, port: int, path: str, bodies: Path, requests: int, connections: int) -> None:
        """Send `requests` bodies in turn. Raises RuntimeError unless every answer is a 200."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"port": port, "path": path, "bodies": str(bodies), "requests": requests, "connections": connections}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        done = json.loads(self._process.stdout.readline())
        if done["statuses"] != {"200": requests}:
            raise RuntimeError(f"{path} on port {port} answered {done['statuses']}: {done['wrong']}")

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        bodies = Path(order["bodies"]).read_bytes().splitlines()
        done = asyncio.run(_drive(order["port"], order["path"], bodies, order["requests"], order["connections"]))
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
