"""Tests traces with a real service and a real OTLP endpoint: which are kept, their spans, and the loss of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_endpoint import OtlpEndpoint, attributes_of, otlp_endpoint
from running_service import UNKNOWN_CONTEXT, Server, serving, wait_until
from synthetic_bundle import go_live, publish

from service.sample.embedded_redis import EmbeddedRedis

CALLER = "00f067aa0ba902b7"
PARTS = ["store", "assemble", "score", "fuse", "respond"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[OtlpEndpoint]:
    with otlp_endpoint() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    endpoint: OtlpEndpoint, tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis
) -> Iterator[Server]:
    """A service that samples no trace by itself, and calls a request slow only after a minute."""
    folder = tmp_path_factory.mktemp("traced")
    publish(folder / "registry", "1")
    go_live(folder / "registry", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{endpoint.url}/")
        patch.setenv("OTEL_SERVICE_NAME", "home-feed")
        with serving(folder, folder / "registry", redis_server.url, trace_share=0, trace_slow_ms=60_000) as running:
            known = {"user_id": "u", "features": {}}
            assert running.http.put(
                "/features/users", json={"rows": [known]}, headers={"Authorization": "Bearer secret"}
            )
            yield running


def traceparent(number: int, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{number:032x}-{CALLER}-{flags}"}


def rank(server: Server, headers: Any, **more: Any) -> Any:
    body = {"user_id": "nobody", "candidates": ["1", "2"], "context": UNKNOWN_CONTEXT, **more}
    return server.http.post("/rank", json=body, headers=headers)


def received(endpoint: OtlpEndpoint, number: int) -> dict[str, Span]:
    """The spans of one trace, once they are there."""
    wait_until(lambda: bool(endpoint.trace(f"{number:032x}")))
    return endpoint.trace(f"{number:032x}")


def test_the_callers_sampled_trace_gets_a_span_for_each_stage(endpoint: OtlpEndpoint, traced: Server) -> None:
    answer = rank(traced, traceparent(1) | {"X-Request-Id": "r-1"})
    spans = received(endpoint, 1)
    server = spans["POST /rank"]
    # The caller's span is the parent, and the answer names the span that was sent.
    assert server.parent_span_id.hex() == CALLER
    assert answer.headers["traceparent"] == f"00-{1:032x}-{server.span_id.hex()}-01"
    assert server.kind == Span.SPAN_KIND_SERVER
    # Every stage is a child; each ends where the next begins, all within the request.
    assert sorted(spans) == sorted(["POST /rank", *PARTS])
    stages = [spans[name] for name in PARTS]
    assert {span.parent_span_id for span in stages} == {server.span_id}
    assert [span.end_time_unix_nano for span in stages] == [
        *(span.start_time_unix_nano for span in stages[1:]),
        server.end_time_unix_nano,
    ]
    assert server.start_time_unix_nano <= stages[0].start_time_unix_nano
    assert spans["store"].kind == Span.SPAN_KIND_CLIENT
    assert attributes_of(spans["store"]) == {"db.system.name": "redis"}
    # The attributes name no user and no item.
    assert attributes_of(server) == {
        "http.request.method": "POST",
        "http.route": "/rank",
        "http.response.status_code": 200,
        "url.path": "/rank",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "funnelrank.request_id": "r-1",
        "funnelrank.outcome": "degraded",
        "funnelrank.kept": "degraded",
        "funnelrank.model": "synthetic",
        "funnelrank.version": "1",
        "funnelrank.role": "stable",
        "funnelrank.profile": "default",
        "funnelrank.candidates": 2,
        "funnelrank.ranked": 2,
        "funnelrank.degraded": ["unknown_user", "unknown_items:2"],
    }
    assert endpoint.resources[-1]["service.name"] == "home-feed"


def test_the_callers_tracestate_is_in_every_span(endpoint: OtlpEndpoint, traced: Server) -> None:
    states = [("tracestate", "rojo=00f067aa0ba902b7"), ("tracestate", "congo=t61rcWkgMzE ,")]
    rank(traced, [*traceparent(3).items(), *states])
    spans = received(endpoint, 3)
    assert len(spans) == 1 + len(PARTS)
    assert {span.trace_state for span in spans.values()} == {"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}
    # A malformed one costs the state and not the trace.
    rank(traced, traceparent(4) | {"tracestate": "rojo=1,rojo=2"})
    assert {span.trace_state for span in received(endpoint, 4).values()} == {""}
    # Without a traceparent there is no trace of the caller that it could be of.
    answer = rank(traced, {"tracestate": "rojo=1"})
    number = int(answer.headers["traceparent"].split("-")[1], 16)
    assert {span.trace_state for span in received(endpoint, number).values()} == {""}


def test_rules_are_a_stage_of_their_own(endpoint: OtlpEndpoint, traced: Server) -> None:
    block = {"type": "block", "item_ids": ["2"]}
    assert traced.put("/rules", {"rules": {"default": [block]}}).status_code == 200
    wait_until(lambda: len(rank(traced, {}).json()["ranking"]) == 1)
    rank(traced, traceparent(2))
    spans = received(endpoint, 2)
    assert "rules" in spans
    assert spans["fuse"].end_time_unix_nano == spans["rules"].start_time_unix_nano


def test_failed_and_degraded_requests_are_kept_and_others_only_if_sampled(
    endpoint: OtlpEndpoint, traced: Server
) -> None:
    # A caller's fault is no failure of the service; a trace that its caller has not sampled is not kept.
    assert rank(traced, traceparent(10, "00"), candidates=[]).status_code == 422
    assert traced.http.get("/models", headers=traceparent(11, "00")).status_code == 200
    assert traced.http.get("/readyz", headers=traceparent(12)).status_code == 200
    assert traced.http.get("/models", headers=traceparent(13)).status_code == 200
    rank(traced, traceparent(14, "00"))
    # The deadline passes while the body is on its way.
    late = json.dumps({"user_id": "u", "candidates": ["1"], "timeout_ms": 1}).encode()
    answer = traced.http.post("/rank", content=slowly(late), headers=traceparent(15, "00"))
    assert answer.status_code == 504
    failed = received(endpoint, 15)["POST /rank"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(failed)["error.type"] == "deadline_exceeded"
    assert attributes_of(failed)["funnelrank.kept"] == "failed"
    assert attributes_of(received(endpoint, 14)["POST /rank"])["funnelrank.kept"] == "degraded"
    assert attributes_of(received(endpoint, 13)["GET /models"])["funnelrank.kept"] == "sampled"
    assert [endpoint.trace(f"{number:032x}") for number in (10, 11, 12)] == [{}, {}, {}]


def slowly(body: bytes) -> Iterator[bytes]:
    import time

    yield body[:-1]
    time.sleep(0.01)
    yield body[-1:]


def test_traces_that_the_endpoint_refuses_are_counted_and_rankings_go_on(
    endpoint: OtlpEndpoint, traced: Server
) -> None:
    endpoint.status = 400
    try:
        assert rank(traced, traceparent(20)).status_code == 200
        wait_until(lambda: 'funnelrank_traces_total{outcome="failed"} 1.0' in traced.http.get("/metrics").text)
    finally:
        endpoint.status = 200
    assert rank(traced, traceparent(21)).status_code == 200
    assert received(endpoint, 21)
    assert not endpoint.trace(f"{20:032x}")


def test_every_request_is_kept_that_is_slow_or_sampled_by_chance(
    tmp_path: Path, registry: Path, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp_endpoint() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.url)
        with serving(tmp_path, registry, redis_server.url, trace_share=1) as server:
            # The answer names the trace, so that it can be found.
            _, trace_id, span_id, flags = server.http.get("/models").headers["traceparent"].split("-")
            assert flags == "01"
            wait_until(lambda: bool(endpoint.trace(trace_id)))
        assert endpoint.trace(trace_id)["GET /models"].span_id.hex() == span_id
        assert not endpoint.trace(trace_id)["GET /models"].parent_span_id
        with serving(tmp_path, registry, redis_server.url, trace_share=0, trace_slow_ms=1) as server:
            late = json.dumps({"user_id": "u", "candidates": []}).encode()
            answer = server.http.post("/rank", content=slowly(late))
            slow_id = answer.headers["traceparent"].split("-")[1]
            wait_until(lambda: bool(endpoint.trace(slow_id)))
        slow = endpoint.trace(slow_id)["POST /rank"]
        assert attributes_of(slow)["funnelrank.kept"] == "slow"
        # trace_slow_ms of the server above, in nanoseconds.
        assert slow.end_time_unix_nano - slow.start_time_unix_nano >= 1_000_000


def test_log_lines_of_a_request_name_its_trace(tmp_path: Path, registry: Path, redis_server: EmbeddedRedis) -> None:
    spoiled = "from service.ranking import ranker\nranker.count_ranking = None"
    with serving(tmp_path, registry, redis_server.url, setup=spoiled) as server:
        assert rank(server, traceparent(30)).status_code == 500
        lines = [json.loads(line) for line in server.log_lines.splitlines() if line.startswith("{")]
    failed = [line for line in lines if line["message"] == "request failed"]
    assert [line["trace_id"] for line in failed] == [f"{30:032x}"]
    assert not [line for line in lines if "trace_id" in line and line not in failed]


def test_without_an_endpoint_no_exporter_is_imported() -> None:
    # redis itself imports the metrics of OpenTelemetry's SDK where that is installed.
    program = (
        "import sys\nfrom service.server.app import build_app\nfrom service.server.start import WorkerStart\n"
        "from service.settings import Settings\nbuild_app(WorkerStart(Settings.from_environment({}), None))\n"
        "assert not [m for m in sys.modules if m.startswith(('opentelemetry.exporter', 'service.tracing.spans'))]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
