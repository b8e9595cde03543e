"""Measures the traces of a worker at 1 % sampling: CPU milliseconds per request, with the thread that sends them."""

import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from bench.results.targets import Verdict
from service.api.context import RequestContext
from service.api.traces import Tracing
from service.settings import Settings
from service.tracing.context import new_trace
from service.tracing.marks import Marks, Value
from service.tracing.opening import open_sender

_REQUESTS = 30_000
_STAGES = ("store", "assemble", "score", "fuse", "rules", "respond")
_SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/rank", "headers": []}


class _Taking(BaseHTTPRequestHandler):
    """An OTLP endpoint that takes everything. Its CPU time counts too, so that the figure is an upper bound."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Suppress the log of requests."""


def traces_ms() -> float:
    """CPU milliseconds per request of marks, decision, spans and sending. Raises RuntimeError if traces were lost."""
    registry = CollectorRegistry()
    counter = Counter("traces", "Traces by outcome.", ["outcome"], registry=registry)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taking) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        sender = open_sender(f"http://127.0.0.1:{server.server_port}", "bench", counter)
        tracing = Tracing(Settings(trace_share=0.01), sender)
        started = time.process_time()
        sender.start()
        for _ in range(_REQUESTS):
            _trace_one(tracing)
        sender.close()
        seconds = time.process_time() - started
        server.shutdown()
        thread.join()
    if registry.get_sample_value("traces_total", {"outcome": "sent"}) in (None, 0.0):
        raise RuntimeError("no trace was sent")
    return seconds / _REQUESTS * 1000


def _trace_one(tracing: Tracing) -> None:
    """Do what the service does for a traced request, and nothing else."""
    request = RequestContext(_SCOPE)
    request.marks = marks = Marks()
    request.trace = new_trace(tracing.share)
    for stage in _STAGES:
        marks.begin(stage)
    marks.facts = _facts
    tracing.finished(_SCOPE, request, 200, request.started + 0.001)


def _facts() -> Mapping[str, Value]:
    return {f"funnelrank.{name}": "value" for name in ("model", "version", "role", "profile", "scene", "candidates")}


def verdict(cost_ms: float, ranking_ms: float) -> Verdict:
    """The bound: 1 % of the CPU time of a ranking of 200 candidates, which takes `ranking_ms`."""
    share = 100 * cost_ms / ranking_ms
    return Verdict("traces: % of the CPU time of a ranking at 1 % sampling, C=200", share, 1.0, at_least=False)
