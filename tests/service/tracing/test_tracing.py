"""Tests the ids of traces, the settings, and the bounded queue."""

from threading import Event

import pytest
from prometheus_client import CollectorRegistry, Counter

from service.settings import Settings, SettingsError
from service.tracing.context import continued, new_trace, state_members
from service.tracing.marks import FinishedTrace
from service.tracing.sender import MOST_QUEUED, TraceSender


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00-zz",
        b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
    ],
)
def test_a_traceparent_that_is_not_version_00_is_ignored(header: bytes) -> None:
    assert continued(header) is None


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_a_trace_is_continued_with_a_new_span(flags: str, sampled: bool) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    trace = continued(f"00-{trace_id}-00f067aa0ba902b7-{flags}".encode())
    assert trace is not None
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (trace_id, "00f067aa0ba902b7", sampled)
    assert trace.traceparent() == f"00-{trace_id}-{trace.span_id}-{flags}".encode()
    assert trace.span_id != trace.parent_id


@pytest.mark.parametrize(
    ("header", "members"),
    [
        (b"vendor=opaque", [("vendor", "opaque")]),
        (b"rojo=00f0-1,congo=t61rcWkgMzE", [("rojo", "00f0-1"), ("congo", "t61rcWkgMzE")]),
        (b" b=2 ,\t,a=1\t,", [("b", "2"), ("a", "1")]),
        (b"0tenant@system=a b", [("0tenant@system", "a b")]),
        (b"k/*-_9=" + b"v" * 256, [("k/*-_9", "v" * 256)]),
        (b",".join(b"k%d=v" % i for i in range(32)), [(f"k{i}", "v") for i in range(32)]),
        (b"", []),
        (b"a=1,a=2", []),
        (b"a=1,B=2", []),
        (b"a=1,b", []),
        (b"a=1,b=", []),
        (b"a=1=2", []),
        (b"a=\xe9", []),
        (b"a=1\x7f", []),
        (b"9a=1", []),
        (b"k=" + b"v" * 257, []),
        (b",".join(b"k%d=v" % i for i in range(33)), []),
    ],
)
def test_a_tracestate_is_read_as_the_standard_says(header: bytes, members: list[tuple[str, str]]) -> None:
    assert state_members(header) == members


def test_the_share_of_new_traces_is_sampled() -> None:
    assert not any(new_trace(0.0).sampled for _ in range(1000))
    assert all(new_trace(1.0).sampled for _ in range(1000))
    assert 300 < sum(new_trace(0.4).sampled for _ in range(1000)) < 500
    trace = new_trace(0.5)
    assert continued(trace.traceparent()) is not None


class Blocked:
    """An endpoint that takes nothing until it is released."""

    def __init__(self) -> None:
        self.entered = Event()
        self.released = Event()
        self.batches: list[int] = []

    def write(self, traces: list[FinishedTrace]) -> bool:
        self.entered.set()
        self.released.wait(30)
        self.batches.append(len(traces))
        return True

    def close(self) -> None:
        self.released.set()


def test_traces_beyond_the_queue_are_dropped_and_counted() -> None:
    registry = CollectorRegistry()
    writer = Blocked()
    sender = TraceSender(writer, Counter("traces", "t", ["outcome"], registry=registry))
    trace = FinishedTrace("GET /models", new_trace(1.0), 0.0, 1.0, [])
    sender.offer(trace)
    sender.start()
    assert writer.entered.wait(30)
    for _ in range(MOST_QUEUED + 7):
        sender.offer(trace)
    writer.released.set()
    sender.close()
    assert writer.batches == [1, MOST_QUEUED]
    assert registry.get_sample_value("traces_total", {"outcome": "sent"}) == MOST_QUEUED + 1
    assert registry.get_sample_value("traces_total", {"outcome": "dropped"}) == 7


def test_the_endpoint_is_an_http_address() -> None:
    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert Settings.from_environment({name: "http://collector:4318"}).otlp_endpoint == "http://collector:4318"
    assert Settings.from_environment({}).otlp_endpoint == ""
    with pytest.raises(SettingsError, match=f"{name}: an OTLP endpoint over HTTP is needed"):
        Settings.from_environment({name: "collector:4317"})
    with pytest.raises(SettingsError, match="FUNNELRANK_TRACE_SHARE"):
        Settings.from_environment({"FUNNELRANK_TRACE_SHARE": "2"})
