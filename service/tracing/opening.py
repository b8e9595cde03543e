"""Opens the sender of traces, and imports OpenTelemetry for it."""

from importlib.util import find_spec

from prometheus_client import Counter

from service.tracing.sender import TraceSender

MISSING = (
    "OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed: pip install 'funnelrank[traces]', "
    "or unset the variable"
)


def is_installed() -> bool:
    """Return whether the extra `traces` is installed, without importing it."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def open_sender(endpoint: str, version: str, traces: Counter) -> TraceSender:
    """Return a sender to an OTLP endpoint. Raises ImportError without the extra `traces`."""
    from service.tracing.spans import OtlpWriter

    return TraceSender(OtlpWriter(endpoint, version), traces)
