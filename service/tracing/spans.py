"""Writes the spans of traces with OpenTelemetry, and sends them over OTLP (HTTP, protobuf).

Only a worker that sends traces imports this module.
"""

from collections.abc import Sequence
from time import monotonic, time
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from service.tracing.context import state_members
from service.tracing.marks import FinishedTrace

# The store is another process, so that its span is a client's (semantic conventions for database spans).
_STORE: Final = "store"
_STORE_ATTRIBUTES: Final = {"db.system.name": "redis"}


class OtlpWriter:
    """Sends traces to an OTLP endpoint, as `http://collector:4318`.

    The exporter itself reads the other variables of OpenTelemetry: headers, timeout, compression, certificates.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._ids = _GivenIds()
        self._ended = _EndedSpans()
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what is written here.
        resource = Resource({"service.name": "funnelrank", "service.version": version})
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # other traces do not come here
            resource=resource.merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("funnelrank", version)

    def write(self, traces: list[FinishedTrace]) -> bool:
        """Send the traces; return whether the endpoint has taken them."""
        # The times are those of a clock without a date.
        epoch = time() - monotonic()
        for one in traces:
            self._write_spans(one, epoch)
        spans = self._ended.take()
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Stop a request to the endpoint that is on its way or waits to be repeated."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _write_spans(self, one: FinishedTrace, epoch: float) -> None:
        # The server's span has the ids that the answer's traceparent names.
        ids = one.context
        trace_id = int(ids.trace_id, 16)
        parent = None
        if ids.parent_id:
            caller = SpanContext(
                trace_id,
                int(ids.parent_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
                trace_state=TraceState(state_members(ids.state)),  # spans inherit it
            )
            parent = trace.set_span_in_context(NonRecordingSpan(caller))
        self._ids.give(trace_id, int(ids.span_id, 16))
        server = self._tracer.start_span(
            one.name, parent, SpanKind.SERVER, one.attributes, start_time=_nanoseconds(epoch + one.started)
        )
        if one.error:
            server.set_status(Status(StatusCode.ERROR))
            server.set_attribute("error.type", one.error)
        # A stage ends where the next one begins, the last one with the request.
        inside = trace.set_span_in_context(server)
        ends = [began for _, began in one.stages[1:]] + [one.ended]
        for (stage, began), ended in zip(one.stages, ends, strict=False):
            kind = SpanKind.CLIENT if stage == _STORE else SpanKind.INTERNAL
            attributes = _STORE_ATTRIBUTES if stage == _STORE else None
            start = _nanoseconds(epoch + began)
            span = self._tracer.start_span(stage, inside, kind, attributes, start_time=start)
            span.end(_nanoseconds(epoch + ended))
        server.end(_nanoseconds(epoch + one.ended))


class _GivenIds(RandomIdGenerator):
    """Gives the next span the ids that the request has already; all others get random ones."""

    def __init__(self) -> None:
        self._trace_id = 0
        self._span_id = 0

    def give(self, trace_id: int, span_id: int) -> None:
        self._trace_id = trace_id
        self._span_id = span_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def generate_span_id(self) -> int:
        span_id = self._span_id
        self._span_id = 0
        return span_id or super().generate_span_id()


class _EndedSpans(SpanProcessor):
    """Collects the spans of one sending."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> Sequence[ReadableSpan]:
        spans = self._spans
        self._spans = []
        return spans


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
