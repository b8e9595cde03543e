"""An OTLP endpoint for tests: takes spans over HTTP as protobuf, as a collector does."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpEndpoint:
    """The spans that were received; `status` is what the endpoint answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status = 200
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of one trace, by name."""
        return {span.name: span for span in list(self.spans) if span.trace_id.hex() == trace_id}

    def servers(self) -> list[Span]:
        """The spans of requests."""
        return [span for span in list(self.spans) if span.kind == Span.SPAN_KIND_SERVER]


def attributes_of(one: Any) -> dict[str, Any]:
    """The attributes of a span or a resource as plain values."""
    return {pair.key: _plain(pair.value) for pair in one.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def otlp_endpoint() -> Iterator[OtlpEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            if endpoint.status == 200:
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    endpoint.resources.append(attributes_of(of_resource.resource))
                    for scope in of_resource.scope_spans:
                        endpoint.spans.extend(scope.spans)
            self.send_response(endpoint.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Suppress the log of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = OtlpEndpoint(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
