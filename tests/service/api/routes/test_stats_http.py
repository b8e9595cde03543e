"""Tests `GET /stats`: its figures are those of `/metrics`, over all workers, and its alarms fire."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import pytest
import redis

from service.api.access.caller_keys import needed_role
from service.callers.document import CallerRole
from service.sample.embedded_redis import EmbeddedRedis

RANK = {"user_id": "712", "candidates": ["1", "2"], "context": {"tab": None, "hour": None}}


def stats(server: Any, window_s: int = 3600) -> Any:
    answer = server.http.get("/stats", params={"window_s": window_s})
    assert answer.status_code == 200, answer.text
    return answer.json()


def counted(page: str, name: str, **labels: str) -> int:
    """The sum of a counter's series that have these labels, on the page of `/metrics`."""
    lines = re.findall(rf"^funnelrank_{name}(?:\{{(.*)\}})? (\S+)$", page, re.MULTILINE)
    return sum(
        int(float(value)) for of_series, value in lines if all(f'{k}="{v}"' in of_series for k, v in labels.items())
    )


@pytest.fixture
def running(tmp_path: Path, registry: Path, kit: SimpleNamespace, store: redis.Redis) -> Any:
    with EmbeddedRedis() as own:
        options = {"workers": 2, "allow_degraded_ready": True}
        with kit.serving(tmp_path, registry, own.url, **options) as server:
            server.redis = own
            yield server


def test_figures_are_those_of_the_metrics_over_all_workers(running: Any, kit: SimpleNamespace) -> None:
    for _ in range(20):  # each on a connection of its own, so that both workers get some
        assert fresh_http.post(f"{running.url}/rank", json=RANK).status_code == 200
    assert running.http.post("/rank", json=RANK | {"candidates": []}).status_code == 422
    kit.wait_until(lambda: stats(running)["totals"]["requests"] == 21)
    body = stats(running)
    page = running.http.get("/metrics").text
    assert body["totals"] == {
        "requests": counted(page, "requests_total", route="/rank"),
        "rankings": counted(page, "rankings_total"),
        "degraded": counted(page, "degraded_total"),
        "shed": 0,
        "failed": 0,
    }
    assert body["totals"]["rankings"] == 20
    # The history began with the service, so that the window has everything.
    traffic = body["traffic"]
    assert (traffic["n"], traffic["shed"], traffic["failed_share"]) == (21, 0, 0.0)
    assert traffic["outcomes"] == {"degraded": 20, "invalid_request": 1}
    assert traffic["per_second"] == pytest.approx(21 / body["window"]["covered_s"])
    assert 0 < body["window"]["covered_s"] < body["window"]["asked_s"] == 3600
    assert body["latency"]["n"] == 21
    assert 0 < body["latency"]["p50_ms"] <= body["latency"]["p95_ms"] <= body["latency"]["p99_ms"]
    assert [(stage["stage"], stage["n"]) for stage in body["stages"]] == [
        (stage, 20) for stage in ("store", "assemble", "score", "fuse", "respond")
    ]
    assert {"reason": "unknown_user", "n": 20, "share": 1.0} in body["degraded"]
    assert body["versions"] == [
        {
            "line": "default",
            "role": "stable",
            "name": "synthetic",
            "version": "1",
            "percent": None,
            "n": 20,
            "failed": 0,
            "share": 1.0,
        }
    ]
    assert body["workers"] == {"living": 2, "ready": 2}
    assert (body["store"]["reachable"], body["exposure_log"]) == (True, None)
    assert body["item_cache"]["n"] == 40
    assert body["queue"]["most_in_work"] == 2 * 2 * 64
    assert len(body["alarms"]) == 19
    assert {alarm["state"] for alarm in body["alarms"]} == {"ok"}
    assert "ETag" not in running.http.get("/stats").headers


def test_a_store_that_is_away_is_an_alarm(running: Any, kit: SimpleNamespace) -> None:
    running.redis.kill()
    assert running.http.post("/rank", json=RANK).status_code == 200

    def alarm() -> Any:
        return next(alarm for alarm in stats(running)["alarms"] if alarm["name"] == "FunnelrankStoreUnavailable")

    kit.wait_until(lambda: alarm()["value"] > 0)
    of_store = alarm()
    assert (of_store["state"], of_store["severity"], of_store["for_s"]) in (
        ("pending", "page", 60),
        ("firing", "page", 60),
    )
    assert "Redis" in of_store["summary"]
    body = stats(running)
    assert body["store"] == {"reachable": False, "detail": "Redis does not answer"}
    assert "store_unavailable" in {entry["reason"] for entry in body["degraded"]}


def test_windows_have_limits(server: Any) -> None:
    for window in ("14", "259201", "soon", "NaN"):
        refused = server.http.get("/stats", params={"window_s": window})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "window_s")


def test_a_caller_needs_the_role_read() -> None:
    assert needed_role("GET", "/stats", metrics_are_open=True) == CallerRole.READ
