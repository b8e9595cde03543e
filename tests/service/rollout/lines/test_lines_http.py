"""Tests lines with real processes: a model per scene, where a change of one line never touches another."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
import redis
from steady_traffic import SteadyTraffic

from features import FeatureSchema
from service.rollout.rollout import read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.loading.schemas import register_schema

# A scene is known if the fusion profiles name it.
FUSION = """
profiles: {default: {kind: weighted_sum, weights: {pctr: 1.0}}}
scenes: {home: default, detail: default}
"""


def target(version: str, **more: Any) -> dict[str, Any]:
    return {"name": "synthetic", "version": version} | more


def change(server: Any, **document: Any) -> Any:
    answer = server.put("/models/rollout", document)
    assert answer.status_code == 200, answer.text
    return answer.json()


def model(server: Any, scene: str | None, user: str = "712") -> dict[str, str]:
    """The model of an answer over a new connection, so that every worker gets requests."""
    body = {"user_id": user, "candidates": ["1", "2"], "scene": scene}
    answer = fresh_http.post(f"{server.url}/rank", json=body)
    assert answer.status_code == 200, answer.text
    used: dict[str, str] = answer.json()["model"]
    return used


def workers(server: Any) -> list[Any]:
    of_host: list[Any] = server.http.get("/models").json()["workers"]
    return of_host


def pids_of_new_connections(server: Any) -> set[int]:
    """The workers that a new connection reaches and sees; empty if it is cut."""
    try:
        answer = fresh_http.get(f"{server.url}/models").json()
    except httpx.TransportError:
        return set()
    return {worker["pid"] for worker in answer["workers"]}


def everywhere(server: Any, line: str, role: str = "live") -> set[str | None]:
    """The version that each of two workers has in a role of a line."""
    states = [worker.get("lines", {}).get(line) for worker in workers(server)]
    if len(states) != 2 or None in states:
        return set()
    return {state[role]["version"] if state[role] else None for state in states}


def metric(server: Any, start: str) -> float:
    lines = [x for x in server.http.get("/metrics").text.splitlines() if x.startswith(start)]
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines)


class Traffic(SteadyTraffic):
    """Rankings of both scenes; `answers` has scene, status, line and version."""

    def __init__(self, server: Any) -> None:
        super().__init__(server.url, clients=2)
        self.answers: list[tuple[str, int, str, str]] = []

    def send(self, http: httpx.Client, number: int) -> None:
        scene = ("home", "detail")[number % 4 // 2]
        body = {"user_id": str(number % 300), "candidates": [str(i) for i in range(10)], "scene": scene}
        answer = http.post("/rank", json=body)
        used = answer.json().get("model", {})
        self.answers.append((scene, answer.status_code, used.get("line", ""), used.get("version", "")))


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    """Two workers; the scene `detail` uses the line `item_page` with version 2."""
    kit.publish(registry, "2", bias=0.5)
    (tmp_path / "fusion.yaml").write_text(FUSION)
    with kit.serving(tmp_path, registry, redis_server.url, workers=2, fusion_file=tmp_path / "fusion.yaml") as server:
        assert "line" not in model(server, "detail"), "without lines, the answer is as before"
        answer = change(server, line="item_page", stable=target("2"), scenes={"detail": "item_page"})
        assert answer["served"]["state"] == "served"
        kit.wait_until(lambda: everywhere(server, "item_page") == {"2"})
        yield server


def test_a_scene_uses_the_versions_of_its_line(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    of_default = {"name": "synthetic", "version": "1", "role": "stable", "line": "default"}
    assert [model(running, scene) for scene in (None, "home")] == [of_default] * 2
    assert model(running, "detail") == of_default | {"version": "2", "line": "item_page"}
    kit.wait_until(lambda: metric(running, 'funnelrank_rankings_total{line="item_page",result="ok",role="stable"}') > 0)
    info = 'funnelrank_model_info{line="item_page",name="synthetic",role="stable",version="2"}'
    kit.wait_until(lambda: metric(running, info) == 1)
    # A version that two lines share is loaded once, and told once.
    taken = metric(running, 'funnelrank_model_swaps_total{result="taken"}')
    change(running, line="item_page", shadow=target("1"))
    kit.wait_until(lambda: everywhere(running, "item_page", "shadow") == {"1"})
    assert metric(running, 'funnelrank_model_swaps_total{result="taken"}') == taken
    loaded = workers(running)[0]["loaded"]
    assert [v["version"] for v in loaded] == ["1", "2"]
    assert all(v["graph_bytes"] == (registry / "synthetic/2/model.onnx").stat().st_size for v in loaded)
    # The scene goes back to the default line, and the line ends.
    refused = running.put("/models/rollout", {"line": "item_page", "stable": None})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "scenes.detail")
    change(running, line="item_page", stable=None, scenes={"detail": None})
    kit.wait_until(lambda: "line" not in model(running, "detail"))


def test_one_line_swaps_and_rolls_back_under_load_while_the_other_serves(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    for version in ("3", "4"):
        kit.publish(registry, version, bias=0.5)
    change(running, line="item_page", limits={"psi": None, "latency_ratio": None})
    with Traffic(running) as traffic:
        for version in ("3", "4"):
            change(running, line="item_page", stable=target(version))
            kit.wait_until(lambda expected=version: everywhere(running, "item_page") == {expected})
        answer = running.http.post(
            "/models/rollback", json={"line": "item_page"}, headers={"Authorization": "Bearer secret"}
        )
        assert answer.json()["lines"]["item_page"]["stable"]["version"] == "3"
        kit.wait_until(lambda: everywhere(running, "item_page") == {"3"})
    assert {status for _, status, _, _ in traffic.answers} == {200}
    assert {(line, version) for scene, _, line, version in traffic.answers if scene == "home"} == {("default", "1")}
    of_detail = {(line, version) for scene, _, line, version in traffic.answers if scene == "detail"}
    assert of_detail == {("item_page", "2"), ("item_page", "3"), ("item_page", "4")}
    assert read_rollout(registry).stable.version == "1"


def test_a_canary_of_one_line_is_withdrawn_without_touching_the_other(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    kit.publish(registry, "5", nan_above=50.0)
    kit.publish(registry, "6", bias=0.1)
    limits = {"min_requests": 10, "psi": None, "latency_ratio": None, "shadow_share": 1.0}
    change(running, canary=target("6", percent=50), limits=limits)
    change(running, line="item_page", canary=target("5", percent=50), limits=limits)
    kit.wait_until(lambda: everywhere(running, "item_page", "canary") == {"5"})
    items = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": "1"}} for i in range(60)]
    for user in range(160):
        body = {"user_id": str(user), "candidates": items, "scene": ("home", "detail")[user % 2]}
        assert fresh_http.post(f"{running.url}/rank", json=body).status_code == 200
    kit.wait_until(lambda: read_rollout(registry).author == "automatic")
    document = read_rollout(registry)
    assert (document.line, document.lines["item_page"].canary) == ("item_page", None)
    assert "limits.error_rate" in document.reason
    assert document.canary is not None and document.canary.version == "6"
    kit.wait_until(lambda: metric(running, 'funnelrank_automatic_rollbacks_total{line="item_page",role="canary"}') == 1)
    kit.wait_until(lambda: everywhere(running, "item_page", "canary") == {None})
    assert everywhere(running, "default", "canary") == {"6"}


def test_a_killed_worker_and_a_restart_come_back_with_every_line(
    tmp_path: Path, running: Any, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    pid = workers(running)[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    # The kept connection may have been to that worker.
    kit.wait_until(lambda: pid not in pids_of_new_connections(running))
    running.http.close()
    running.http = fresh_http.client(base_url=running.url)
    kit.wait_until(lambda: len(workers(running)) == 2 and pid not in [w["pid"] for w in workers(running)])
    kit.wait_until(lambda: everywhere(running, "item_page") == {"2"})
    # A line whose version is gone is served by the default line; the rest of the service starts.
    kit.publish(registry, "9")
    (registry / "synthetic/2/model.onnx").unlink()
    with kit.serving(tmp_path, registry, redis_server.url, fusion_file=tmp_path / "fusion.yaml") as server:
        assert model(server, "detail") == {"name": "synthetic", "version": "1", "role": "stable", "line": "default"}
        assert metric(server, 'funnelrank_serving_fallback{line="item_page"}') == 1
        state = server.http.get("/models").json()["worker"]
        assert state["lines"]["item_page"]["live"] is None
        assert state["refused"][0]["model"] == "synthetic/2"
        assert change(server, line="item_page", stable=target("9"))["served"]["state"] == "served"
        kit.wait_until(lambda: model(server, "detail")["line"] == "item_page")


def test_lines_of_two_schemas_rank_from_one_redis(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, schema: FeatureSchema
) -> None:
    other = json.loads(json.dumps(kit.SCHEMA))
    other["item"].append({"name": "colour", "type": "categorical"})
    kit.publish(registry, "2", schema=other)
    with EmbeddedRedis() as own:
        with redis.Redis.from_url(own.url) as client:
            register_schema(client, schema)
            register_schema(client, FeatureSchema.model_validate(other))
        (tmp_path / "fusion.yaml").write_text(FUSION)
        with kit.serving(tmp_path, registry, own.url, fusion_file=tmp_path / "fusion.yaml") as server:
            change(server, line="item_page", stable=target("2"), scenes={"detail": "item_page"})
            kit.wait_until(lambda: model(server, "detail")["version"] == "2")
            # A write goes to both schemas; each line reads its own rows.
            rows = {"items": [{"item_id": "of-lines", "features": {"price": 3.0, "colour": "red"}}]}
            written = server.put("/features/items", rows)
            assert written.status_code == 200, written.text
            for scene, version in (("detail", "2"), ("home", "1")):
                answer = server.rank(["of-lines"], scene=scene).json()
                assert (answer["model"]["version"], answer["coverage"]["scored"]) == (version, 1)
                assert "unknown_items:1" not in answer["degraded"]
            with_colour = server.rank([{"item_id": "1", "features": {"colour": "red"}}], scene="detail")
            assert with_colour.status_code == 200
            refused = server.rank([{"item_id": "1", "features": {"colour": "red"}}], scene="home")
            assert refused.status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"line": "nowhere", "canary": None}, "line"),
        ({"scenes": {"detail": "nowhere"}}, "scenes.detail"),
        ({"line": "../x", "stable": {"name": "synthetic", "version": "1"}}, "line"),
        ({"line": "default", "stable": None}, None),
        ({"line": "item_page"}, None),
    ],
)
def test_a_change_that_names_no_line_that_exists_is_refused(server: Any, body: Any, field: str | None) -> None:
    before = server.http.get("/models").json()["rollout"]
    answer = server.put("/models/rollout", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    if field is not None:
        assert answer.json()["errors"][0]["field"] == field
    assert server.http.get("/models").json()["rollout"] == before


def test_more_versions_than_a_worker_may_load_are_refused(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    for version in ("2", "3", "4"):
        kit.publish(registry, version)
    with kit.serving(tmp_path, registry, redis_server.url, max_versions=3) as server:
        change(server, shadow=target("2"))
        change(server, line="item_page", stable=target("3"))
        answer = server.put("/models/rollout", {"line": "item_page", "canary": target("4", percent=5)})
        assert answer.status_code == 422
        assert "4 distinct versions, 3 are allowed (FUNNELRANK_MAX_VERSIONS)" in answer.json()["detail"]
        change(server, line="item_page", canary=target("1", percent=5))
