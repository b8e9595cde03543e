"""Tests with real processes that swaps lose no request: other tasks, a store that hangs, hostile callers."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from redis_proxy import RedisProxy
from steady_traffic import SteadyTraffic

from features import FeatureSchema
from service.bundle.loading import load_bundle
from service.bundle.verify import read_manifest
from service.fusion import FusionProfiles, expression, profiles
from service.metrics.metrics import Metrics
from service.rollout.following.follower import Follower
from service.rollout.rollout import read_rollout
from service.rollout.serving import bind_profiles
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store
from service.store.redis.loading.schemas import register_schema
from service.user_split import within

USERS = [str(i) for i in range(400)]


def target(version: str, **more: Any) -> dict[str, Any]:
    return {"name": "synthetic", "version": version} | more


def metric(server: Any, start: str) -> float:
    lines = [x for x in server.http.get("/metrics").text.splitlines() if x.startswith(start)]
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines)


class Traffic(SteadyTraffic):
    """Rankings of many users."""

    def __init__(self, server: Any) -> None:
        super().__init__(server.url, clients=4)
        self.statuses: list[int] = []

    def send(self, http: httpx.Client, number: int) -> None:
        body = {"user_id": USERS[7 * number % len(USERS)], "candidates": [str(i) for i in range(20)]}
        self.statuses.append(http.post("/rank", json=body).status_code)


@pytest.fixture
def slow_store(redis_server: EmbeddedRedis, store: redis.Redis) -> Iterator[str]:
    """The address of a Redis that answers 10 ms late, so that many rankings are in flight while versions change."""
    with RedisProxy(redis_server.port, delay_s=0.01).running() as proxy:
        yield proxy.url


def test_versions_with_other_tasks_swap_beside_a_canary_and_a_shadow_without_a_failed_ranking(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, slow_store: str
) -> None:
    kit.publish(registry, "2")
    for version in ("3", "4"):
        kit.without_task(kit.publish(registry, version), "pctcvr")
    fusion = {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1.0}}}}
    with kit.serving(tmp_path, registry, slow_store, workers=2) as server:
        assert server.put("/fusion", fusion).status_code == 200
        limits = {"psi": None, "latency_ratio": None, "shadow_share": 1.0}
        change = {"canary": target("2", percent=50), "limits": limits}
        assert server.put("/models/rollout", change).status_code == 200
        with Traffic(server) as traffic:
            for change in (
                {"stable": target("3")},
                {"canary": target("4", percent=50)},
                {"stable": target("1")},
                {"canary": target("2", percent=50)},
                {"canary": None, "stable": target("1"), "shadow": target("2")},
                {"stable": target("3")},
            ):
                assert server.put("/models/rollout", change).status_code == 200
                revision = read_rollout(registry).revision
                kit.wait_until(
                    lambda expected=revision: (
                        {w["live"]["revision"] for w in server.http.get("/models").json()["workers"]} == {expected}
                    )
                )
            scored = 'funnelrank_shadow_rankings_total{result="scored"}'
            before = metric(server, scored)
            kit.wait_until(lambda: metric(server, scored) > before + 20)
        assert metric(server, 'funnelrank_shadow_rankings_total{result="failed"}') == 0
        assert set(traffic.statuses) == {200}
        assert "Traceback" not in server.log_lines


def test_a_store_that_hangs_does_not_let_a_version_of_another_schema_in(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, schema: FeatureSchema
) -> None:
    other = json.loads(json.dumps(kit.SCHEMA))
    other["item"].append({"name": "colour", "type": "categorical"})
    kit.publish(registry, "2", schema=other)
    with EmbeddedRedis() as own:
        with redis.Redis.from_url(own.url) as client:
            register_schema(client, schema)
        with kit.serving(tmp_path, registry, own.url, redis_timeout_ms=50) as server:
            os.kill(own.pid, signal.SIGSTOP)
            try:
                assert server.put("/models/rollout", {"stable": target("2")}).status_code == 200
                refused = 'funnelrank_model_swaps_total{result="schema_not_checked"}'
                kit.wait_until(lambda: metric(server, refused) == 1)
            finally:
                os.kill(own.pid, signal.SIGCONT)
            refused = 'funnelrank_model_swaps_total{result="schema_not_loaded"}'
            kit.wait_until(lambda: metric(server, refused) == 1)
            answer = server.rank(["1"])
            assert (answer.status_code, answer.json()["model"]["version"]) == (200, "1")
            # Redis has 50 ms for its answer, which a busy machine may miss once.
            kit.wait_until(lambda: server.http.get("/readyz").status_code == 200)
            with redis.Redis.from_url(own.url) as client:
                register_schema(client, FeatureSchema.model_validate(other))
            kit.wait_until(lambda: server.rank(["1"]).json()["model"]["version"] == "2")


def test_a_folder_that_is_published_again_meanwhile_cannot_bind_weights_to_other_tasks(
    tmp_path: Path, kit: SimpleNamespace
) -> None:
    folder = kit.publish(tmp_path, "1")
    manifest = read_manifest(folder)
    text = json.loads((folder / "manifest.json").read_text())
    text["tasks"].reverse()
    (folder / "manifest.json").write_text(json.dumps(text))
    bundle = load_bundle(folder, threads=1, largest=50, manifest=manifest)
    fusion = FusionProfiles.model_validate(
        {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctcvr": 1.0}}}}
    )
    formula = bind_profiles(bundle.manifest, fusion).for_scene(None)
    scores = bundle.score(dict(bundle.golden))
    assert np.array_equal(formula.fuse(scores), scores[bundle.tasks.index("pctcvr")].astype(np.float64))
    assert bundle.tasks == kit.TASKS


def test_callers_do_not_decide_about_a_canary(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    """An identical canary, where only its users send requests that fail, take long or look odd."""
    kit.publish(registry, "1b", nan_above=1000.0)
    kit.publish(registry, "2", nan_above=1000.0)
    kit.go_live(registry, "1b")
    own = {"price": 5000, "quality": 1}
    odd = [{"item_id": str(i), "features": own} for i in range(30)]
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        limits = {"min_requests": 10, "min_scores": 100, "shadow_share": 1.0}
        change = {"canary": target("2", percent=50), "limits": limits}
        assert server.put("/models/rollout", change).status_code == 200
        kit.wait_until(lambda: server.http.get("/models").json()["worker"]["canary"] is not None)
        revision = read_rollout(registry).revision
        of_canary = [u for u in USERS if within(u, "synthetic/2", 50)][:30]
        of_stable = [u for u in USERS if not within(u, "synthetic/2", 50)][:30]
        for stable_user, canary_user in zip(of_stable, of_canary, strict=True):
            assert server.rank(["1", "2", "3"], stable_user).status_code == 200
            assert server.rank(odd, canary_user).json()["coverage"]["scored"] == 0
            assert server.rank([str(i) for i in range(1500)], canary_user).status_code == 200
            assert server.rank_too_late([str(i) for i in range(1500)], canary_user).status_code == 504
        for _ in range(60):  # a monitoring probe
            server.rank([{"item_id": str(i), "features": {"price": 1}} for i in range(16)], of_canary[0])
        seen = server.http.get("/models").json()
        assert seen["worker"]["refused"] == []
        assert (seen["rollout"]["revision"], seen["worker"]["canary"]["version"]) == (revision, "2")


async def test_the_event_loop_hardly_works_while_a_large_fusion_document_is_taken_up(
    tmp_path: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    """The loop's thread takes a small share of the process's CPU, and only the present profiles are parsed."""

    def document(revision: int, count: int) -> dict[str, Any]:
        text = " + ".join(["pctr"] + [f"pcvr * {i}.5" for i in range(13)])
        formulas = {f"p{i}": {"kind": "formula", "formula": f"{text} + {revision}"} for i in range(count)}
        default = {"kind": "weighted_sum", "weights": {"pctr": 1.0 + revision}}
        return {"revision": revision, "profiles": {"default": default} | formulas}

    parsed: list[str] = []
    parse = expression.parse

    def counting(text: str) -> expression.Expression:
        parsed.append(text)
        return parse(text)

    follower = Follower(Settings(registry=registry), None, open_store(redis_server.url, 20_000), Metrics())
    await follower.step()
    past = [document(r, 50) | {"withdrawn": False} for r in range(20, 0, -1)]
    (registry / "fusion.json").write_text(json.dumps(document(21, 50) | {"history": past}))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(profiles, "parse", counting)
        loop_start = time.thread_time()
        start = time.process_time()
        await follower.step()
        of_loop = time.thread_time() - loop_start
        of_all = time.process_time() - start
    assert follower.snapshot.documents.profiles is not None
    assert follower.snapshot.documents.profiles.revision == 21
    follower.reader.close()
    assert len(parsed) == 50
    assert of_loop < 0.3 * of_all, (of_loop, of_all)
