"""Attacks that a service must survive while it answers other callers, each over a raw connection."""

import json
import random
import socket
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from loadtest.soak.checks import fault_in
from loadtest.soak.revisions import look_up_revision
from loadtest.soak.state import Soak

PATIENCE_S = 10.0
PAUSE_S = 0.3
PIPELINED = 12
TRAILERS = 200
EVENTS = 500


def read_slowly(soak: Soak, rng: random.Random) -> None:
    """Ask for a large ranking, and read a few bytes a second of its answer."""
    with _connect(soak, receive_bytes=2048) as caller:
        caller.sendall(_post(soak, "/rank", _ranking(soak, rng, 500)))
        end = time.monotonic() + 3.0
        while time.monotonic() < end and not soak.stop.wait(0.2):
            if not caller.recv(16):
                break
    soak.count("hostile_slow_reader")


def send_a_head_alone(soak: Soak, _rng: random.Random) -> None:
    """Announce a body that never arrives."""
    with _connect(soak) as caller:
        caller.sendall(_head(soak, "/rank", "Content-Length: 50000") + b"{")
        soak.stop.wait(2.0)
    soak.count("hostile_head_alone")


def pipeline(soak: Soak, rng: random.Random) -> None:
    """Send many rankings before the first answer. Every answer must be right, and answers must be in order."""
    requests = [_ranking(soak, rng, 20) | {"request_id": f"soak-{n}"} for n in range(PIPELINED)]
    excused = soak.fault_in_force()
    with _connect(soak) as caller:
        reader = caller.makefile("rb")
        caller.sendall(b"".join(_post(soak, "/rank", request) for request in requests))
        for request in requests:
            status, body = _answer(reader)
            soak.count(f"hostile_pipelined_{status}")
            if status == 200:
                _judge(soak, request, body)
            elif not status and not (excused or soak.fault_in_force()):
                soak.fail(f"a pipelined request got no answer: {body}")
            if not status:
                break


def send_trailers(soak: Soak, rng: random.Random) -> None:
    """Send a chunked body that ends with many trailers."""
    body = json.dumps(_ranking(soak, rng, 20)).encode()
    trailers = b"".join(b"X-Trailer-%d: %s\r\n" % (n, b"x" * 200) for n in range(TRAILERS))
    with _connect(soak) as caller:
        caller.sendall(_head(soak, "/rank", "Transfer-Encoding: chunked"))
        caller.sendall(b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers))
        status, _ = _answer(caller.makefile("rb"))
        soak.count(f"hostile_trailers_{status}")


def crowd_a_millisecond(soak: Soak, rng: random.Random) -> None:
    """Send many events of one user in one millisecond."""
    user = str(rng.randrange(500))
    now_ms = int(time.time() * 1000)
    events = [
        {"user_id": user, "item_id": str(rng.randrange(soak.options.items)), "action": "click", "timestamp": now_ms}
        for _ in range(EVENTS)
    ]
    status, _ = soak.call("POST", "/events", {"events": events})
    soak.count(f"hostile_events_{status}")
    soak.stop.wait(1.0)


def _judge(soak: Soak, request: dict[str, Any], body: dict[str, Any]) -> None:
    if body["request_id"] != request["request_id"]:
        soak.fail(f"the answer to {request['request_id']} belongs to {body['request_id']}")
        return
    look_up_revision(soak, body["fusion"]["revision"])
    fault = fault_in(body, request, soak.profiles, set(soak.versions))
    if fault is not None:
        soak.fail(f"pipelined: {fault}")


def _ranking(soak: Soak, rng: random.Random, candidates: int) -> dict[str, Any]:
    items = rng.sample(range(soak.options.items), min(candidates, soak.options.items))
    return {"user_id": str(rng.randrange(500)), "candidates": [str(item) for item in items], "timeout_ms": 5000}


def _post(soak: Soak, path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return _head(soak, path, f"Content-Length: {len(content)}") + content


def _head(soak: Soak, path: str, length: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {soak.key}\r\n{length}\r\n\r\n".encode()


def _connect(soak: Soak, receive_bytes: int | None = None) -> socket.socket:
    """Open a connection to the service. Raises OSError."""
    address = urlsplit(soak.options.url)
    caller = socket.socket()
    if receive_bytes is not None:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    caller.settimeout(PATIENCE_S)
    try:
        caller.connect((address.hostname or "127.0.0.1", address.port or 80))
    except OSError:
        caller.close()
        raise
    return caller


def _answer(reader: BinaryIO) -> tuple[int, Any]:
    """Return status and body of the next answer on a connection; status 0 and the reason if there is none."""
    try:
        status_line = reader.readline()
        length = 0
        while line := reader.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(status_line.split()[1]), json.loads(reader.read(length))
    except (OSError, ValueError, IndexError) as error:
        return 0, f"{type(error).__name__}: {error}"


def _attack(function: Callable[[Soak, random.Random], None]) -> Callable[[Soak, random.Random], None]:
    """Wrap a function as a job of the soak; it is no failure if the service closes its connection."""

    @wraps(function)
    def job(soak: Soak, rng: random.Random) -> None:
        try:
            function(soak, rng)
        except OSError:
            soak.count(f"hostile_{function.__name__}_cut_off")
        soak.stop.wait(PAUSE_S)

    return job


HOSTILE = [_attack(function) for function in (read_slowly, send_a_head_alone, pipeline, send_trailers)]
HOSTILE.append(crowd_a_millisecond)
