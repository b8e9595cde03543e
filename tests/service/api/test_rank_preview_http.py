"""Tests `POST /rank/preview`: the ranking of a chosen version, which counts as no traffic."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis
from rules_service import TOKEN

from service.sample.embedded_redis import EmbeddedRedis

ITEMS = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": str(i)}} for i in range(12)]
COUNTERS = ("funnelrank_rankings_total", "funnelrank_degraded_total", "funnelrank_canary")


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    kit.publish(registry, "2", bias=0.7)
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        canary = {"name": "synthetic", "version": "2", "percent": 0.01}
        assert server.put("/models/rollout", {"canary": canary}).json()["served"]["state"] == "served"
        yield server


def preview(server: Any, **more: Any) -> httpx.Response:
    body = {"user_id": "712", "candidates": ITEMS, "explain": True} | more
    answer: httpx.Response = server.http.post("/rank/preview", json=body, headers=TOKEN)
    return answer


def counters(server: Any) -> list[str]:
    return [line for line in server.http.get("/metrics").text.splitlines() if line.startswith(COUNTERS)]


def test_every_loaded_version_ranks_and_nothing_is_counted(running: Any) -> None:
    before = counters(running)
    own = preview(running).json()
    stable, canary = (preview(running, version=f"synthetic/{version}").json() for version in "12")
    assert (own["model"], own["ranking"]) == (stable["model"], stable["ranking"])
    assert (canary["model"]["version"], canary["model"]["role"]) == ("2", "canary")
    scores = [{item["item_id"]: item["predictions"]["pctr"] for item in each["ranking"]} for each in (stable, canary)]
    assert all(scores[1][item] > scores[0][item] for item in scores[0])
    assert counters(running) == before
    # The same request as a ranking has the same answer, and counts.
    ranked = running.http.post("/rank", json={"user_id": "712", "candidates": ITEMS, "explain": True}).json()
    assert ranked["ranking"] == stable["ranking"]


def test_a_version_that_is_not_loaded_is_named_with_those_that_are(running: Any) -> None:
    refused = preview(running, version="synthetic/9")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
    assert refused.json()["detail"] == "synthetic/9 is not loaded; loaded are synthetic/1, synthetic/2"


def test_a_bad_request_is_refused_as_by_rank(running: Any) -> None:
    refused = preview(running, candidates=["1", "1"])
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "candidates[1]")
