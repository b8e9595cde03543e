"""Tests answers that are written at once: the same bytes as in two steps, and nothing unusual."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from service.api.middleware import WRITE_ANSWER
from service.metrics.metrics import Metrics
from service.sample.embedded_redis import free_port
from service.server.protocol.connection import BoundedConnection
from service.server.protocol.connections import CONNECTIONS, Connections
from service.settings import Settings

Headers = list[tuple[bytes, bytes]]
USUAL: Headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
UNUSUAL: dict[str, Headers] = {
    "/closes": [*USUAL, (b"connection", b"close")],
    "/chunked": [(b"transfer-encoding", b"chunked")],
    "/without-length": [(b"content-type", b"text/plain")],
    "/wrong-length": [(b"content-length", b"3")],
    "/line-break": [*USUAL, (b"x-request-id", b"1\r\nset-cookie: a=b")],
    "/line-feed": [*USUAL, (b"x-request-id", b"1\nset-cookie: a=b")],
}


def wrapping(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        await send(message)

    return wrapped


class Application:
    """Answers `ok`, at once where it is possible; `written` says where it was."""

    def __init__(self) -> None:
        self.written: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"][CONNECTIONS] = Connections(Settings(), Metrics())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        headers = UNUSUAL.get(scope["path"], USUAL)
        if scope["path"] != "/two-steps":
            sender = wrapping(send) if scope["path"] == "/wrapped" else send
            self.written.append(scope["extensions"][WRITE_ANSWER](sender, 200, headers, b"ok"))
            if self.written[-1]:
                return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def serving(application: Application, port: int) -> Iterator[None]:
    config = uvicorn.Config(
        application, port=port, http=BoundedConnection, loop="uvloop", ws="none", log_config=None, access_log=False
    )
    config.date_header = False
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()


def answer(port: int, request: bytes) -> bytes:
    """All bytes that the server sends before it closes the connection, or waits for another request."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(request)
        caller.shutdown(socket.SHUT_WR)
        received = b""
        while part := caller.recv(65_536):
            received += part
        return received


@pytest.fixture
def port() -> int:
    return free_port()


def test_an_answer_at_once_has_the_bytes_of_one_in_two_steps(port: int) -> None:
    application = Application()
    with serving(application, port):
        at_once = answer(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        several = answer(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert at_once == answer(port, b"GET /two-steps HTTP/1.1\r\nHost: a\r\n\r\n")
    assert at_once.endswith(b"content-length: 2\r\n\r\nok")
    assert several == 3 * at_once
    assert application.written == [True] * 4


@pytest.mark.parametrize("request_line", [b"HEAD / HTTP/1.1\r\nHost: a", b"GET / HTTP/1.0"])
def test_an_unusual_request_is_answered_in_two_steps(port: int, request_line: bytes) -> None:
    application = Application()
    with serving(application, port):
        assert answer(port, request_line + b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert application.written == [False]


@pytest.mark.parametrize("path", [*UNUSUAL, "/wrapped"])
def test_an_unusual_answer_takes_two_steps(port: int, path: str) -> None:
    application = Application()
    with serving(application, port):
        received = answer(port, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
    assert application.written == [False]
    assert b"set-cookie" not in received
