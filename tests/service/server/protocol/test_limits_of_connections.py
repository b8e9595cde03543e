"""Tests the limits of connections: their number, their idle time, and how long an answer may make no progress."""

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import pytest
import uvicorn
from raw_http import connect, read_all, read_answers, request, statuses
from starlette.types import Receive, Scope, Send

from service.metrics.metrics import Metrics
from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port
from service.server.protocol.connection import BoundedConnection
from service.server.protocol.connections import CONNECTIONS, Connections, most_connections
from service.settings import Settings

BODY = b'{"user_id": "1", "candidates": ["1", "2"]}'
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"


def metric(server: Any, name: str) -> float:
    lines = fresh_http.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


def rank(server: Any) -> int:
    """The status of a ranking on a new connection."""
    return fresh_http.post(f"{server.url}/rank", content=BODY).status_code


def large_answer() -> bytes:
    body = {"user_id": "1", "candidates": [f"{'y' * 60}-{number}" for number in range(2000)], "explain": True}
    return request(json.dumps(body).encode())


@contextmanager
def silent_readers(server: Any, count: int) -> Iterator[list[socket.socket]]:
    """Callers that pipeline large rankings and read nothing."""
    with contextlib.ExitStack() as stack:
        callers = []
        for _ in range(count):
            caller = stack.enter_context(socket.socket())
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.send(large_answer() * 12)
            callers.append(caller)
        yield callers


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """Twenty connections at most, and answers that may make no progress for a second."""
    folder = tmp_path_factory.mktemp("service")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    limits = {"max_connections": 20, "write_timeout_ms": 1000, "read_timeout_ms": 5000}
    limits |= {"max_inflight": 100, "max_wait_ms": 100_000, "default_timeout_ms": 100_000}
    with kit.serving(folder, folder / "registry", redis_server.url, **limits) as running:
        yield running


def test_readers_that_do_not_read_are_ended_and_hold_no_place(service: Any, kit: SimpleNamespace) -> None:
    cut = 'funnelrank_connections_cut_total{reason="slow_reader"}'
    with silent_readers(service, 8):
        kit.wait_until(lambda: metric(service, cut) >= 8)
        assert [rank(service) for _ in range(20)] == [200] * 20
        assert metric(service, "funnelrank_inflight_requests") == 0


def test_a_reader_that_reads_slowly_gets_its_answers(service: Any) -> None:
    with silent_readers(service, 1) as (caller,):
        caller.settimeout(30)
        text = b""
        # 60 KB a step, and 0.2 s between them: every answer takes longer than the limit.
        while len(statuses(text)) < 4:
            for _ in range(15):
                part = caller.recv(4096)
                assert part, "the service has closed the connection"
                text += part
            time.sleep(0.2)
    assert statuses(text) == [200] * 4


def test_idle_connections_make_room_for_new_ones(service: Any) -> None:
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connect(service)) for _ in range(60)]
        for caller in callers[::2]:
            with contextlib.suppress(ConnectionError):
                caller.sendall(LIVEZ)
                caller.recv(4096)
        assert [rank(service) for _ in range(20)] == [200] * 20
        assert metric(service, "funnelrank_connections") <= 21
        assert metric(service, 'funnelrank_connections_cut_total{reason="idle"}') >= 40
    assert "the limit of this worker" in service.log_lines


def test_where_all_connections_are_busy_a_new_one_is_refused(service: Any, kit: SimpleNamespace) -> None:
    kit.wait_until(lambda: metric(service, "funnelrank_connections") <= 2)
    with contextlib.ExitStack() as stack:
        callers = []
        for _ in range(20):
            callers.append(stack.enter_context(connect(service)))
            # The answer to the whole request shows that the beginning of the next one has arrived with it.
            callers[-1].sendall(LIVEZ + LIVEZ[:10])
            assert read_answers(callers[-1], 1)[0][0] == 200
        refused = read_all(stack.enter_context(connect(service)))
        assert statuses(refused) == [503]
        assert b'"code":"overloaded"' in refused
        assert b"Retry-After: 1" in refused
        for caller in callers:
            caller.sendall(LIVEZ[10:])
            assert read_answers(caller, 1)[0][0] == 200
    kit.wait_until(lambda: rank(service) == 200)
    assert metric(service, 'funnelrank_connections_cut_total{reason="refused"}') >= 1


def test_the_soft_limit_of_open_files_is_raised(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
            pid = server.http.get("/models").json()["worker"]["pid"]
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_connections_leaves_files_for_the_rest() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for files, most in ((256, 128), (1024, 768)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
            assert most_connections(8192) == most
            assert most_connections(100) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers every request with two letters."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"][CONNECTIONS] = Connections(Settings(read_timeout_ms=1000), Metrics())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def keeping_alive(seconds: int) -> Iterator[SimpleNamespace]:
    """A server in this process that keeps idle connections for some seconds."""
    port = free_port()
    config = uvicorn.Config(
        answering,
        port=port,
        http=BoundedConnection,
        loop="uvloop",
        ws="none",
        log_config=None,
        timeout_keep_alive=seconds,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("tease", [b"", b"\r\n", b"\n"])
def test_an_idle_connection_ends_however_it_is_teased(tease: bytes) -> None:
    with keeping_alive(1) as server, connect(server) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert read_answers(caller, 1) == [(200, b"ok")]
        caller.settimeout(0.1)
        until = time.monotonic() + 30
        closed = False
        while not closed:
            assert time.monotonic() < until, "the connection is still open"
            with contextlib.suppress(TimeoutError):
                try:
                    caller.sendall(tease)
                    closed = caller.recv(10) == b""
                except ConnectionError:
                    closed = True


def test_a_connection_is_kept_alive_between_requests() -> None:
    """Its time begins anew with each request."""
    with keeping_alive(2) as server, connect(server) as caller:
        for pause_s in (0, 0.7, 0.7, 0.7):
            time.sleep(pause_s)
            caller.sendall(b"\r\nGET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert read_answers(caller, 1) == [(200, b"ok")]


@pytest.mark.slow
@pytest.mark.parametrize("files", [None, 1024])
def test_5000_idle_connections_of_one_host_leave_a_good_caller_unharmed(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any, files: int | None
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        with (
            kit.serving(tmp_path, registry, redis_server.url, workers=2, wait_for=None) as server,
            contextlib.ExitStack() as stack,
        ):
            if files is not None:  # before the workers start: they inherit it
                resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (files, files))
            kit.wait_until(lambda: server.log_lines.count("is in use") == 2)
            wait_until_ready(server.process, f"{server.url}/readyz", 60)
            kit.wait_until(lambda: metric(server, "funnelrank_ready_workers") == 2)
            pids = [worker["pid"] for worker in fresh_http.get(f"{server.url}/models").json()["workers"]]
            memory = [memory_of(pid) for pid in pids]
            for _ in range(5000):
                caller = stack.enter_context(connect(server))
                caller.sendall(LIVEZ)
                assert caller.recv(4096).startswith(b"HTTP/1.1 200")
            if files is None:
                kit.wait_until(lambda: metric(server, "funnelrank_connections") >= 5000)
            grown = sum(memory_of(pid) for pid in pids) - sum(memory)
            print(f"{grown / 5000 / 1024:.1f} KiB of memory per idle connection")
            assert grown < 5000 * 32 * 1024
            assert [rank(server) for _ in range(100)] == [200] * 100
            assert "Traceback" not in server.log_lines
            if files is not None:
                assert "the limit of this worker" in server.log_lines
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def memory_of(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
