"""Tests `GET /models/{name}/{version}`: the manifest whole, the places, the gate's figures, refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from service.sample.embedded_redis import EmbeddedRedis


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    kit.publish(registry, "2")
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        yield server


def described(server: Any, version: str) -> Any:
    answer = server.http.get(f"/models/synthetic/{version}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_version_is_described_with_its_manifest_places_and_gate(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    live = described(running, "1")
    manifest = json.loads((registry / "synthetic" / "1" / "manifest.json").read_text())
    assert (live["name"], live["version"], live["problem"]) == ("synthetic", "1", None)
    for name in ("parity", "metrics", "provenance", "tasks", "fingerprint", "created_at", "files"):
        assert live["manifest"][name] == manifest[name]
    assert live["places"] == [{"line": "default", "role": "stable", "percent": None}]
    assert [(worker["loaded"], worker["refused"]) for worker in live["workers"]] == [(True, [])] * 2

    published = described(running, "2")
    assert (published["places"], [worker["loaded"] for worker in published["workers"]]) == ([], [False, False])
    for user in range(8):
        running.rank(["1", "2"], user_id=str(user))
    change = {"canary": {"name": "synthetic", "version": "2", "percent": 5}}
    assert running.put("/models/rollout", change).status_code == 200
    kit.wait_until(lambda: all(worker["loaded"] for worker in described(running, "2")["workers"]))
    canary = described(running, "2")
    assert canary["places"] == [{"line": "default", "role": "canary", "percent": 5.0}]
    reports = [gate["report"] for worker in canary["workers"] for gate in worker["gate"]]
    assert len(reports) == 2
    assert {report["against"] for report in reports} == {"synthetic/1"}
    assert sum(report["requests"] for report in reports) == 8, "each worker measures its own requests"


def test_a_version_that_cannot_be_used_says_why(running: Any, registry: Path) -> None:
    (registry / "synthetic" / "2" / "manifest.json").write_text("{")
    broken = described(running, "2")
    assert broken["manifest"] is None
    assert "manifest" in broken["problem"]


def test_what_is_not_published_or_no_name_is_refused(server: Any) -> None:
    absent = server.http.get("/models/synthetic/77")
    assert (absent.status_code, absent.json()["code"]) == (404, "unknown_model")
    for path, field in (("/models/synthetic/..%2F1", None), ("/models/UPPER/1", "name"), ("/models/a/-", "version")):
        refused = server.http.get(path)
        if field is None:
            assert refused.status_code == 404
        else:
            assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert server.http.get("/models/rollout/").status_code == 404
    assert server.http.get("/models/rollout").headers["allow"] == "PUT"
