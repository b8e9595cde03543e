"""Tests how the comparison with other frameworks shows costs, and that it refuses a server that ranks otherwise."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bench import peers
from bench.measuring.servers import Server


@contextmanager
def answering(answer: dict[str, Any]) -> Iterator[Server]:
    """A server that answers every request alike."""
    content = json.dumps(answer).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server("test", 0, server.server_port)
        server.shutdown()
        thread.join()


def test_a_row_has_each_cost_and_its_ratio_to_ours() -> None:
    row = {"model": "m", "candidates": 20, "cpu_ms": {"funnelrank": 0.5, "fastapi": 1.25}}
    assert " ".join(peers._line(row).split()) == "m C=20 funnelrank 0.50 ms (1.0) fastapi 1.25 ms (2.5)"


def test_a_server_that_ranks_otherwise_is_refused(tmp_path: Path) -> None:
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_bytes(b'{"user_id": "1"}\n')
    with answering({"ranking": [1]}) as plain, answering({"ranking": [2]}) as other, answering({"own": 1}) as own:
        peers._check_alike({"funnelrank": own, "fastapi": plain, "ray": plain}, bodies)
        with pytest.raises(RuntimeError, match="bentoml answered 200"):
            peers._check_alike({"funnelrank": own, "fastapi": plain, "bentoml": other}, bodies)
