"""Tests with real processes that the live versions can always be started."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import numpy as np
import pytest
import redis

from funnelrank.main import main
from service.rollout.rollout import ROLLOUT_FILE, read_rollout
from service.sample.embedded_redis import EmbeddedRedis


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        yield server


def target(version: str) -> dict[str, str]:
    return {"name": "synthetic", "version": version}


def roll_back(server: Any, **body: Any) -> httpx.Response:
    answer: httpx.Response = server.http.post("/models/rollback", json=body, headers={"Authorization": "Bearer secret"})
    return answer


def metric(server: Any, line: str) -> float:
    lines = [x for x in server.http.get("/metrics").text.splitlines() if x.startswith(line + " ")]
    return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


def answers(server: Any, asks: int = 30) -> set[tuple[int, str]]:
    """Status and version of rankings over new connections, so that every worker gets requests."""
    seen = set()
    for _ in range(asks):
        answer = fresh_http.post(f"{server.url}/rank", json={"user_id": "1", "candidates": ["1"]})
        seen.add((answer.status_code, answer.json().get("model", {}).get("version", "")))
    return seen


def kill_one_worker(server: Any) -> None:
    """Kill a worker and wait until another one replaces it."""
    worker = server.http.get("/models").json()["worker"]["pid"]
    os.kill(worker, signal.SIGKILL)
    server.http.close()
    server.http = fresh_http.client(base_url=server.url)


def two_workers(server: Any, without: int | None = None) -> bool:
    try:
        workers = server.http.get("/models").json()["workers"]
    except httpx.TransportError:
        return False
    return len(workers) == 2 and without not in {w["pid"] for w in workers} and all(w["live"] for w in workers)


def test_a_rollback_to_a_version_that_is_gone_is_refused(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    for version in ("2", "3"):
        kit.publish(registry, version)
        assert running.put("/models/rollout", {"stable": target(version)}).status_code == 200
    shutil.rmtree(registry / "synthetic" / "2")
    answer = roll_back(running)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "bundle_missing" in answer.json()["detail"]
    assert read_rollout(registry).stable.version == "3"
    assert roll_back(running, to=1).json()["stable"] == target("1")


def test_the_command_refuses_what_cannot_be_started(
    registry: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a file; tasks that the present profiles read and the version lacks; a rollback to a version that was
    removed.
    """
    monkeypatch.setenv("FUNNELRANK_REGISTRY", str(registry))
    graph = kit.publish(registry, "2") / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    kit.without_task(kit.publish(registry, "3"), "pctcvr")
    profiles = {"default": {"kind": "weighted_sum", "weights": {"pctcvr": 1.0}}}
    (registry / "fusion.json").write_text(json.dumps({"revision": 1, "profiles": profiles}))
    for arguments, message in (
        (["synthetic", "2"], "hash_mismatch"),
        (["--canary", "synthetic/2", "--percent", "5"], "hash_mismatch"),
        (["--shadow", "synthetic/3"], "which the model lacks"),
        (["synthetic", "3"], "which the model lacks"),
    ):
        assert main(["rollout", *arguments]) == 1
        assert message in capsys.readouterr().err
    kit.publish(registry, "4")
    assert main(["rollout", "synthetic", "4"]) == 0
    shutil.rmtree(registry / "synthetic" / "1")
    assert main(["rollout", "--rollback"]) == 1
    assert "bundle_missing" in capsys.readouterr().err
    assert read_rollout(registry).stable.version == "4"


def test_a_version_that_the_workers_refuse_is_withdrawn_and_a_killed_worker_comes_back(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    """Golden outputs of text, with the right hashes: only a worker's own load finds the fault."""
    folder = kit.publish(registry, "2")
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(folder / "golden.npz", **arrays | {"outputs/pctr": np.array(["x"] * 64)})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = hashlib.sha256((folder / "golden.npz").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert running.put("/models/rollout", {"stable": target("2")}).status_code == 200
    kit.wait_until(lambda: read_rollout(registry).author == "automatic")
    document = read_rollout(registry)
    assert (document.stable.version, "golden_unreadable" in document.reason) == ("1", True)
    assert answers(running) == {(200, "1")}
    pid = running.http.get("/models").json()["worker"]["pid"]
    kill_one_worker(running)
    kit.wait_until(lambda: two_workers(running, without=pid))
    assert answers(running) == {(200, "1")}
    assert running.process.poll() is None


def test_fusion_that_a_version_does_not_fit_withdraws_the_version(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    """The document is written without any check, as by another program."""
    profiles = {"default": {"kind": "weighted_sum", "weights": {"pctcvr": 1.0}}}
    assert running.put("/fusion", {"profiles": profiles}).status_code == 200
    kit.without_task(kit.publish(registry, "2"), "pctcvr")
    answer = running.put("/models/rollout", {"stable": target("2")})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    kit.go_live(registry, "2")
    kit.wait_until(lambda: read_rollout(registry).author == "automatic")
    assert "fusion_mismatch" in read_rollout(registry).reason
    assert answers(running) == {(200, "1")}


@pytest.mark.parametrize("fault", ["half a file", "gone"])
def test_a_start_takes_the_newest_version_of_the_history_that_loads_and_says_so(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis, fault: str
) -> None:
    for version in ("2", "3"):
        kit.publish(registry, version)
        kit.go_live(registry, version)
    for version in ("2", "3"):
        folder = registry / "synthetic" / version
        if fault == "gone":
            shutil.rmtree(folder)
        else:
            (folder / "model.onnx").write_bytes(b"half")
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        assert answers(server) == {(200, "1")}
        checks = {c["name"]: c for c in server.http.get("/readyz?verbose").json()["checks"]}
        assert checks["model"]["ok"]
        assert "because stable synthetic/3 cannot be loaded" in checks["model"]["detail"]
        kit.wait_until(lambda: metric(server, "funnelrank_serving_fallback") == 1)
        assert "the earlier version synthetic/1 serves" in server.log_lines
        assert json.loads((registry / ROLLOUT_FILE).read_text())["stable"]["version"] == "3"
        # The version is published again: after a while it is loaded without another change of the document.
        shutil.rmtree(registry / "synthetic" / "3", ignore_errors=True)
        kit.publish(registry, "3")
        kit.wait_until(lambda: answers(server) == {(200, "3")}, seconds=40)
        kit.wait_until(lambda: metric(server, "funnelrank_serving_fallback") == 0)
