"""Tests with real processes that the event loop touches no file: pipes, held locks, changes that are abandoned."""

import asyncio
import fcntl
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
import redis

from service.documents import Edit
from service.errors import RegistryUnavailable
from service.metrics.metrics import Metrics
from service.rollout import operations
from service.rollout.following.follower import Follower
from service.rollout.rollout import ROLLOUT_FILE, read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store


def target(version: str) -> dict[str, str]:
    return {"name": "synthetic", "version": version}


def rankings_in(server: Any, seconds: float) -> list[int]:
    """The statuses of rankings on new connections for some seconds."""
    statuses = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        body = {"user_id": "1", "candidates": ["1"]}
        statuses.append(fresh_http.post(f"{server.url}/rank", json=body).status_code)
    return statuses


@pytest.mark.parametrize("file", [ROLLOUT_FILE, "fusion.json"])
def test_a_document_that_is_a_pipe_stops_no_ranking(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis, file: str
) -> None:
    kit.publish(registry, "2")
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        profiles = {"default": {"kind": "weighted_sum", "weights": {"pctr": 1.0}}}
        assert server.put("/fusion", {"profiles": profiles}).status_code == 200
        (registry / file).rename(registry / "aside")
        os.mkfifo(registry / file)
        assert set(rankings_in(server, 2.0)) == {200}
        shown = server.http.get("/models")
        assert shown.status_code == 200
        (registry / file).unlink()
        (registry / "aside").rename(registry / file)
        assert server.put("/models/rollout", {"stable": target("2")}).status_code == 200
        kit.wait_until(lambda: server.rank(["1"]).json()["model"]["version"] == "2")


def test_a_lock_that_is_held_is_told_and_nothing_is_carried_out_later(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    kit.publish(registry, "2")
    answers: list[httpx.Response] = []
    with kit.serving(tmp_path, registry, redis_server.url) as server:

        def put() -> None:
            headers = {"Authorization": "Bearer secret"}
            body = {"stable": target("2")}
            url = f"{server.url}/models/rollout"
            answers.append(fresh_http.put(url, json=body, headers=headers))

        with (registry / ".rollout.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            threads = [threading.Thread(target=put) for _ in range(8)]
            for thread in threads:
                thread.start()
            # An event loop that waited for the lock would be blocked for 2 s by each of them.
            assert server.http.get("/models", timeout=10).status_code == 200
            assert server.rank(["1"]).status_code == 200
            for thread in threads:
                thread.join()
        assert {a.status_code for a in answers} == {503}
        assert {a.json()["code"] for a in answers} == {"registry_unavailable"}
        assert all("another writer has held .rollout.lock" in a.json()["detail"] for a in answers)
        assert all(a.headers["retry-after"] for a in answers)
        assert read_rollout(registry).revision == 1
        assert server.put("/models/rollout", {"stable": target("2")}).json()["revision"] == 2


def test_a_withdrawal_that_cannot_be_written_is_written_later(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    kit.publish(registry, "2", golden_nan=True)
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        kit.go_live(registry, "2")
        with (registry / ".rollout.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kit.wait_until(lambda: "the rollout document was not changed, and will be" in server.log_lines)
            assert server.rank(["1"]).json()["model"]["version"] == "1"
        kit.wait_until(lambda: read_rollout(registry).author == "automatic")
        assert read_rollout(registry).stable.version == "1"


async def test_a_change_that_takes_too_long_fails_and_is_not_made_later(
    registry: Path,
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hashing of a version hangs until the caller has its answer, and then continues."""
    from service.rollout.trials import checks

    kit.publish(registry, "2")
    release = threading.Event()
    ended = threading.Event()
    verify = checks.RegistryChecks.verify

    def hanging(self: checks.RegistryChecks, version: Any) -> Any:
        release.wait()
        return verify(self, version)

    monkeypatch.setattr(checks.RegistryChecks, "verify", hanging)
    monkeypatch.setattr(operations, "CHANGE_SECONDS", 0.2)

    follower = Follower(Settings(registry=registry), None, open_store(redis_server.url, 20_000), Metrics())
    await follower.step()
    changes = {"stable": read_rollout(registry).stable.model_copy(update={"version": "2"})}
    with pytest.raises(RegistryUnavailable, match="the registry does not answer within 0.2 s"):
        await operations.change_rollout(follower, changes, Edit("ann"))
    release.set()
    for _ in range(1000):
        if not [t for t in threading.enumerate() if t.name == "limited"]:
            ended.set()
            break
        await asyncio.sleep(0.05)
    follower.reader.close()
    assert ended.is_set()
    assert read_rollout(registry).revision == 1


def test_profiles_that_score_nobody_are_refused(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    """The golden request is used before the first ranking, then the worker's recent requests; also for a
    changed file.
    """
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        for _ in range(2):
            for formula in ("log(pctr - 2)", "pctr / 0 - pctr / 0", "sqrt(-1 - pctr)"):
                profile = {"kind": "formula", "formula": formula}
                default = {"kind": "weighted_sum", "weights": {"pctr": 1.0}}
                answer = server.put(
                    "/fusion", {"profiles": {"default": default, "bad": profile}, "scenes": {"x": "bad"}}
                )
                assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "profiles.bad")
                assert "gives none of" in answer.json()["detail"]
            for user in range(5):
                assert server.rank(["1", "2", "3"], str(user)).status_code == 200
        assert not (registry / "fusion.json").exists()
        bad = {"default": {"kind": "formula", "formula": "log(pctr - 2)"}}
        (registry / "fusion.json").write_text(json.dumps({"revision": 7, "profiles": bad}))
        kit.wait_until(lambda: "fusion_refused" in server.http.get("/metrics").text)
        assert server.rank(["1", "2"]).json()["coverage"] == {"requested": 2, "scored": 2}


@pytest.mark.parametrize("place", ["registry", "document"])
def test_weights_stay_live_while_their_document_is_gone(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis, place: str
) -> None:
    path = registry if place == "registry" else registry / "fusion.json"
    unreadable = 'document_unreadable{document="fusion"}'
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:

        def revisions() -> set[int]:
            return {server.rank(["1"]).json()["fusion"]["revision"] for _ in range(20)}

        profiles = {"default": {"kind": "weighted_sum", "weights": {"pctr": 2.0}}}
        live = server.put("/fusion", {"profiles": profiles}).json()["revision"]
        kit.wait_until(lambda: revisions() == {live})
        away = path.rename(path.with_name("away"))
        kit.wait_until(lambda: f"{unreadable} 1.0" in server.http.get("/metrics").text)
        time.sleep(0.5)  # both workers look several times
        assert revisions() == {live}
        away.rename(path)
        kit.wait_until(lambda: f"{unreadable} 0.0" in server.http.get("/metrics").text)
        assert revisions() == {live}
