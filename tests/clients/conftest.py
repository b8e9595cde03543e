"""A stub server for the tests of the clients, whose answers each test defines."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = tuple[int, dict[str, str], bytes]
RANKING = {
    "request_id": "r",
    "model": {"name": "m", "version": "1", "role": "stable"},
    "fusion": {"profile": "default", "revision": 1},
    "degraded": ["unknown_items:2"],
    "coverage": {"requested": 1, "scored": 1},
    "ranking": [{"item_id": "a", "rank": 1, "score": 0.5, "predictions": {"pctr": 0.5}}],
}


class Stub:
    """An HTTP/1.1 server that records requests and answers with `answer`, called with the number of the request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.answer: Callable[[int], Answer] = lambda _: (200, {}, json.dumps(RANKING).encode())
        self.connections = 0


@contextmanager
def stub_service() -> Iterator[Stub]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            with lock:
                stub.connections += 1

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                headers = {name.lower(): value for name, value in self.headers.items()}
                stub.requests.append((self.command, self.path, headers, json.loads(body) if body else None))
                number = len(stub.requests)
            status, headers, content = stub.answer(number)
            if status == 0:  # the connection breaks
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Suppress the log of requests."""

    for method in ("GET", "POST", "PUT"):
        setattr(Handler, f"do_{method}", Handler.respond)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub = Stub(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_service() as running:
        yield running


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    """An error response as the service sends it."""
    body = {"type": f"urn:funnelrank:problem:{code}", "title": "t", "status": status, "detail": "d", "code": code}
    return status, headers or {}, json.dumps(body | {"request_id": "r"} | more).encode()
