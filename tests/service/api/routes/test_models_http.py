"""Tests rollout over HTTP: a good version is taken up without a failed request, a bad one never replaces the
live one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
import redis
from steady_traffic import SteadyTraffic

from features.layouts import Layouts
from service.rollout.rollout import ROLLOUT_FILE
from service.sample.embedded_redis import EmbeddedRedis


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    """A separate service with two workers, for tests that change the rollout."""
    (tmp_path / "fusion.yaml").write_text("profiles: {default: {kind: weighted_sum, weights: {pctr: 1.0}}}")
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, fusion_file=tmp_path / "fusion.yaml") as server:
        yield server


def versions(server: Any, asks: int = 20) -> set[str]:
    """The versions that answer, over new connections, so that every worker gets requests."""
    return {
        fresh_http.post(f"{server.url}/rank", json={"user_id": "1", "candidates": ["1"]}).json()["model"]["version"]
        for _ in range(asks)
    }


def metric(server: Any, line: str) -> float:
    for sample in server.http.get("/metrics").text.splitlines():
        if sample.startswith(line + " "):
            return float(sample.rsplit(" ", 1)[1])
    return 0.0


def go_live(server: Any, version: str, **more: Any) -> Any:
    return server.put("/models/rollout", {"stable": {"name": "synthetic", "version": version}} | more)


class Traffic(SteadyTraffic):
    """Rankings of one user; `scores` has the scores of each version."""

    def __init__(self, server: Any) -> None:
        super().__init__(server.url, clients=3)
        self.answers = 0
        self.scores: dict[str, set[float]] = {}
        self.failures: list[str] = []

    def send(self, http: httpx.Client, number: int) -> None:
        answer = http.post("/rank", json={"user_id": "1", "candidates": ["1", "2"]})
        self.answers += 1
        if answer.status_code != 200:
            self.failures.append(answer.text)
        else:
            body = answer.json()
            self.scores.setdefault(body["model"]["version"], set()).add(body["ranking"][0]["predictions"]["pctr"])


def test_versions_swap_under_traffic_without_a_failed_request(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    for version in ("2", "3", "4"):
        kit.publish(registry, version, bias=float(version))
    with Traffic(running) as traffic:
        kit.wait_until(lambda: traffic.answers > 20)
        for version in ("2", "3", "4"):
            assert go_live(running, version).status_code == 200
            kit.wait_until(lambda expected=version: versions(running) == {expected})
    assert traffic.failures == []
    assert traffic.answers > 50
    assert set(traffic.scores) == {"1", "2", "3", "4"}
    assert all(len(scores) == 1 for scores in traffic.scores.values()), "an answer mixed two versions"
    assert metric(running, 'funnelrank_model_swaps_total{result="taken"}') == 8
    assert metric(running, 'funnelrank_model_info{name="synthetic",role="stable",version="4"}') == 1
    assert metric(running, 'funnelrank_model_info{name="synthetic",role="stable",version="1"}') == 0


def _truncated(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:100])


def _swapped(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder.parent / "1" / "model.onnx").read_bytes())


def test_a_rejected_bundle_keeps_the_old_one_serving(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    _truncated(kit.publish(registry, "2"))
    _swapped(kit.publish(registry, "3", bias=1.0))
    kit.publish(registry, "4", golden_nan=True)
    kit.publish(registry, "5", golden_bias=0.5)
    before = (registry / ROLLOUT_FILE).read_text()
    with Traffic(running) as traffic:
        for version in ("2", "3"):
            answer = go_live(running, version)
            assert (answer.status_code, answer.json()["code"]) == (422, "unusable_model")
            assert "hash_mismatch" in answer.json()["detail"]
        assert (registry / ROLLOUT_FILE).read_text() == before
        for version, code in {"4": "golden_not_finite", "5": "golden_mismatch"}.items():
            assert go_live(running, version).status_code == 200
            kit.wait_until(lambda: running.http.get("/models").json()["rollout"]["author"] == "automatic")
            document = running.http.get("/models").json()["rollout"]
            assert document["stable"] == {"name": "synthetic", "version": "1"}
            assert f"synthetic/{version}: {code}" in document["reason"]
            kit.wait_until(
                lambda refusal=code: metric(running, f'funnelrank_model_swaps_total{{result="{refusal}"}}') >= 1
            )
    assert traffic.failures == []
    assert set(traffic.scores) == {"1"}
    assert versions(running) == {"1"}
    assert running.http.get("/readyz").status_code == 200
    assert "refused synthetic/4: golden_not_finite" in running.log_lines


def test_a_document_that_breaks_changes_nothing(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    (registry / ROLLOUT_FILE).write_text("{")
    kit.wait_until(lambda: metric(running, 'funnelrank_model_swaps_total{result="rollout_unreadable"}') == 2)
    assert versions(running) == {"1"}
    assert "problem" in running.http.get("/models").json()


def test_rollout_refuses_what_cannot_serve_before_it_writes(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    before = (registry / ROLLOUT_FILE).read_text()

    def other_task(manifest: dict[str, Any]) -> None:
        manifest["tasks"] = [t for t in manifest["tasks"] if t["name"] != "pctr"]

    kit.publish(registry, "2", change=other_task)
    (registry / "synthetic" / "3").mkdir()
    (registry / "synthetic" / "3" / "manifest.json").write_text("{")
    for version, status, code in (
        ("9", 404, "unknown_model"),
        ("2", 409, "conflict"),
        ("3", 422, "unusable_model"),
        ("../1", 422, "invalid_request"),
    ):
        answer = go_live(running, version)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "profile 'default' names pctr, which the model lacks" in go_live(running, "2").json()["detail"]
    stale = go_live(running, "1", revision=7)
    assert (stale.status_code, stale.json()["code"]) == (409, "conflict")
    assert (registry / ROLLOUT_FILE).read_text() == before


def test_a_model_of_a_schema_that_is_not_loaded_waits_until_it_is(
    running: Any, registry: Path, kit: SimpleNamespace, store: redis.Redis, schema: Any
) -> None:
    from features import FeatureSchema
    from service.store.redis.loading.schemas import register_schema

    register_schema(store, schema)
    other = json.loads(json.dumps(kit.SCHEMA))
    other["item"].append({"name": "colour", "type": "categorical"})
    kit.publish(registry, "2", schema=other)
    assert go_live(running, "2").status_code == 200
    kit.wait_until(lambda: metric(running, 'funnelrank_model_swaps_total{result="schema_not_loaded"}') == 2)
    assert versions(running) == {"1"}
    assert "python -m service load" in running.http.get("/models").json()["worker"]["refused"][0]["detail"]
    register_schema(store, FeatureSchema.model_validate(other))
    kit.wait_until(lambda: versions(running) == {"2"})


def test_models_shows_published_live_and_refused(server: Any, kit: SimpleNamespace) -> None:
    assert go_live(server, "1").status_code == 200
    revision = server.http.get("/models").json()["rollout"]["revision"]
    kit.wait_until(lambda: server.http.get("/models").json()["worker"]["live"]["revision"] == revision)
    shown = server.http.get("/models").json()
    assert [(m["name"], m["version"]) for m in shown["published"]] == [("synthetic", "1")]
    assert shown["rollout"]["stable"] == {"name": "synthetic", "version": "1"}
    assert shown["worker"]["live"] == {"name": "synthetic", "version": "1", "role": "stable", "revision": revision}
    assert shown["worker"]["refused"] == []


def test_fusion_shows_profiles_scenes_and_tasks(server: Any) -> None:
    shown = server.http.get("/fusion").json()
    assert shown["revision"] == 4
    assert shown["scenes"] == {"home": "home", "shop": "shop"}
    assert shown["profiles"]["shop"] == {"kind": "weighted_product", "weights": {"pctr": 0.5, "pcvr": 2.0}}
    assert shown["tasks"] == ["pctr", "pcvr", "pctcvr"]


def test_scores_that_are_nan_never_reach_a_caller(
    tmp_path: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts
) -> None:
    kit.publish(tmp_path / "registry", "1", nan_above=1000.0)
    kit.go_live(tmp_path / "registry", "1")
    price = {"price": 5000, "quality": 1}
    with kit.serving(tmp_path, tmp_path / "registry", redis_server.url) as server:
        body = server.rank(
            [{"item_id": "bad", "features": price}, {"item_id": "good", "features": {"price": 1, "quality": 1}}]
        ).json()
        assert [e["item_id"] for e in body["ranking"]] == ["good", "bad"]
        assert body["ranking"][1]["score"] is None
        assert "unscored_items:1" in body["degraded"]
        assert body["coverage"] == {"requested": 2, "scored": 1}
        hopeless = server.rank([{"item_id": i, "features": price} for i in ("z", "a", "m")]).json()
        assert [e["item_id"] for e in hopeless["ranking"]] == ["z", "a", "m"]
        assert "model_failed" in hopeless["degraded"]
