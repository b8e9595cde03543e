"""Tests that admission covers only computing, and not the transfer of a body, of an answer or of a write."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import pytest
import redis

from service.sample.embedded_redis import EmbeddedRedis

RANKINGS = 25


@pytest.fixture
def narrow(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    """A service that admits two requests at once."""
    with kit.serving(tmp_path, registry, redis_server.url, max_inflight=2) as server:
        yield server


def connect(server: Any, stack: ExitStack) -> socket.socket:
    caller = stack.enter_context(socket.socket())
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    return caller


def statuses(server: Any) -> set[int]:
    return {server.rank(["1", "2"]).status_code for _ in range(RANKINGS)}


def in_work(server: Any) -> float:
    line = next(
        x for x in server.http.get("/metrics").text.splitlines() if x.startswith("funnelrank_inflight_requests")
    )
    return float(line.rsplit(" ", 1)[1])


def test_heads_without_a_body_hold_no_place(narrow: Any) -> None:
    with ExitStack() as stack:
        for _ in range(30):
            connect(narrow, stack).sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        assert in_work(narrow) == 0
        assert statuses(narrow) == {200}


def test_callers_that_do_not_read_hold_no_place(narrow: Any, kit: SimpleNamespace) -> None:
    candidates = [f"{i:0>200}" for i in range(2000)]
    body = json.dumps({"user_id": "1", "candidates": candidates, "explain": True}).encode()
    request = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as stack:
        callers = [connect(narrow, stack) for _ in range(6)]
        for caller in callers:
            caller.sendall(request)
        answered = 'funnelrank_stage_duration_seconds_count{stage="respond"}'

        def all_computed() -> bool:
            page = narrow.http.get("/metrics").text
            counts = [x for x in page.splitlines() if x.startswith(answered)]
            return bool(counts) and float(counts[0].rsplit(" ", 1)[1]) >= 2 and in_work(narrow) == 0

        kit.wait_until(all_computed)
        assert statuses(narrow) == {200}


def test_writes_that_wait_for_the_store_take_no_rankings_place(
    tmp_path: Path, registry: Path, kit: SimpleNamespace
) -> None:
    event = {"user_id": "1", "item_id": "1", "action": "click", "timestamp": 1_700_000_000_000}
    with (
        EmbeddedRedis() as own,
        kit.serving(
            tmp_path, registry, own.url, max_inflight=1, redis_timeout_ms=2500, default_timeout_ms=60_000
        ) as server,
    ):
        assert server.rank(["1"]).status_code == 200
        subprocess.run(["kill", "-STOP", str(own.pid)], check=True)
        try:
            write = threading.Thread(target=lambda: fresh_http.post(f"{server.url}/events", json={"events": [event]}))
            write.start()
            kit.wait_until(lambda: in_work(server) == 1)
            answer = server.rank(["1"])
            assert (answer.status_code, answer.json()["degraded"]) == (200, ["store_unavailable"])
        finally:
            subprocess.run(["kill", "-CONT", str(own.pid)], check=True)
            write.join()
