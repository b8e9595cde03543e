"""Tests changes of the fusion document while it serves: profiles, formulas, bounds, experiments, history."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
import redis

from features.files.writing import write_whole
from service.fusion.document import FUSION_FILE
from service.sample.embedded_redis import EmbeddedRedis
from service.user_split import place_of

SUM = {"kind": "weighted_sum", "weights": {"pctr": 1.0}}
ITEMS = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": str(i)}} for i in range(12)]


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    (tmp_path / "fusion.yaml").write_text(
        "{revision: 4, profiles: {default: {kind: weighted_sum, weights: {pctr: 1.0}}}}"
    )
    options = {"workers": 2, "fusion_file": tmp_path / "fusion.yaml", "fusion_overrides": True}
    with kit.serving(tmp_path, registry, redis_server.url, **options) as server:
        yield server


def put(server: Any, default: Any, **more: Any) -> httpx.Response:
    answer: httpx.Response = server.put("/fusion", {"profiles": {"default": default} | more.pop("profiles", {})} | more)
    return answer


def post(server: Any, path: str, body: Any = None) -> httpx.Response:
    answer: httpx.Response = server.http.post(path, json=body, headers={"Authorization": "Bearer secret"})
    return answer


def wait_for_revision(kit: SimpleNamespace, server: Any, revision: int) -> None:
    kit.wait_until(
        lambda: [w["fusion_revision"] for w in server.http.get("/models").json()["workers"]] == [revision] * 2
    )


def rank(server: Any, **more: Any) -> httpx.Response:
    return fresh_http.post(f"{server.url}/rank", json={"user_id": "712", "candidates": ITEMS} | more)


def test_new_weights_hold_on_every_worker_and_every_answer_fits_its_revision(
    running: Any, kit: SimpleNamespace
) -> None:
    answer = put(running, {"kind": "weighted_sum", "weights": {"pcvr": 2.0}}, author="ann", reason="more carts")
    assert (answer.status_code, answer.json()["revision"]) == (200, 5)
    seen = set()
    for _ in range(40):
        body = rank(running).json()
        seen.add(body["fusion"]["revision"])
        weight = {4: ("pctr", 1.0), 5: ("pcvr", 2.0)}[body["fusion"]["revision"]]
        for entry in body["ranking"]:
            assert entry["score"] == pytest.approx(weight[1] * entry["predictions"][weight[0]], rel=1e-6)
    wait_for_revision(kit, running, 5)
    assert rank(running).json()["fusion"] == {"profile": "default", "revision": 5}
    shown = running.http.get("/fusion").json()
    assert (shown["author"], shown["reason"]) == ("ann", "more carts")
    assert [(h["revision"], h["profiles"]["default"]["weights"]) for h in shown["history"]] == [(4, {"pctr": 1.0})]


def test_a_formula_over_scores_and_item_numerics_ranks(running: Any, kit: SimpleNamespace) -> None:
    formula = {"kind": "formula", "formula": "pctr ** 0.6 * pctcvr ** 1.2 * log1p(price)"}
    assert put(running, formula).status_code == 200
    wait_for_revision(kit, running, 5)
    body = rank(running, explain=True).json()
    for entry in body["ranking"]:
        scores = entry["predictions"]
        price = float(entry["item_id"])
        assert entry["score"] == pytest.approx(
            scores["pctr"] ** 0.6 * scores["pctcvr"] ** 1.2 * math.log1p(price), rel=1e-6
        )
        assert list(entry["explain"]) == ["pctr", "pctcvr", "price"]
        assert entry["explain"]["price"]["value"] == price
        assert entry["explain"]["pctr"]["score"] == scores["pctr"]
    unknown = rank(running, candidates=["no-price", *ITEMS[5:7]]).json()["ranking"]
    assert (unknown[-1]["item_id"], unknown[-1]["score"]) == ("no-price", 0), "a missing price counts as 0"


@pytest.mark.parametrize(
    ("default", "field", "words"),
    [
        ({"kind": "formula", "formula": "pctr * (2"}, "profiles.default", "column 8"),
        ({"kind": "formula", "formula": "pctr * prize"}, "profiles.default.formula", "column 8: unknown name 'prize'"),
        ({"kind": "formula", "formula": "__import__('os')"}, "profiles.default", "unknown function '__import__'"),
        ({"kind": "weighted_sum", "weights": {"plike": 1}}, "profiles.default.weights", "plike, which the model lacks"),
        ({"kind": "weighted_sum", "weights": {}}, "profiles.default", "at least 1"),
        ({"kind": "weighted_sum", "weights": {"pctr": 1e9}}, "profiles.default.weights.pctr", "less than or equal"),
        (
            {"kind": "weighted_sum", "weights": {"pctr": 1}, "formula": "pctr"},
            "profiles.default",
            "for the kind 'formula'",
        ),
        (
            {"kind": "weighted_sum", "weights": {"pctr": 1}, "bounds": {"pctr": {"min": 2, "max": 1}}},
            "profiles.default.bounds.pctr",
            "min is above",
        ),
    ],
)
def test_profiles_that_cannot_hold_are_refused_with_field_and_column(
    server: Any, default: Any, field: str, words: str
) -> None:
    before = server.http.get("/fusion").json()
    answer = put(server, default)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"] == field
    assert words in answer.json()["errors"][0]["message"]
    assert server.http.get("/fusion").json() == before


def test_a_profile_must_fit_the_canary_too(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    answer = put(running, SUM, revision=3)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert running.http.put("/fusion", json={}).status_code == 401
    other = json.loads(json.dumps(kit.SCHEMA))
    other["item"][3] = {"name": "cost", "type": "numeric"}
    other["behaviour"]["item_features"] = ["item_id", "tag", "cost"]
    kit.publish(registry, "2", schema=other)
    canary = {"name": "synthetic", "version": "2", "percent": 1}
    assert running.put("/models/rollout", {"canary": canary}).status_code == 200
    kit.wait_until(lambda: all(w["canary"] for w in running.http.get("/models").json()["workers"]))
    refused = put(running, {"kind": "formula", "formula": "pctr * price"})
    assert refused.status_code == 422
    assert "canary synthetic/2" in refused.json()["detail"]


def test_one_call_restores_the_profiles_before(running: Any, kit: SimpleNamespace) -> None:
    nothing = post(running, "/fusion/rollback")
    assert (nothing.status_code, nothing.json()["code"]) == (409, "conflict")
    for weight in (2.0, 3.0):
        assert put(running, {"kind": "weighted_sum", "weights": {"pctr": weight}}).status_code == 200
    back = post(running, "/fusion/rollback").json()
    assert (back["revision"], back["restores"], back["profiles"]["default"]["weights"]) == (7, 5, {"pctr": 2.0})
    further = post(running, "/fusion/rollback", {"author": "bob"}).json()
    assert (further["profiles"]["default"]["weights"], further["author"]) == ({"pctr": 1.0}, "bob")
    wait_for_revision(kit, running, 8)
    assert running.http.post("/fusion/rollback").status_code == 401


def test_overrides_keep_to_the_operators_bounds(running: Any, kit: SimpleNamespace) -> None:
    bounded = SUM | {"bounds": {"pctr": {"min": 0.5, "max": 2}}}
    assert put(running, bounded).status_code == 200
    wait_for_revision(kit, running, 5)
    within = rank(running, fusion={"weights": {"pctr": 2.0}}).json()
    assert within["fusion"]["overridden"] is True
    assert within["ranking"][0]["score"] == pytest.approx(2 * within["ranking"][0]["predictions"]["pctr"])
    for weights, words in (
        ({"pctr": 2.1}, "outside 0.5..2"),
        ({"pcvr": 1.0}, "the operator does not allow to change this weight"),
    ):
        answer = rank(running, fusion={"weights": weights})
        assert answer.status_code == 422
        assert words in answer.json()["errors"][0]["message"]


def test_an_experiment_splits_users_and_tells_their_arm(running: Any, kit: SimpleNamespace) -> None:
    arms = [{"name": "a", "profile": "default", "percent": 40}, {"name": "b", "profile": "cvr", "percent": 40}]
    experiment = {"salt": "spring", "arms": arms}
    cvr = {"kind": "weighted_sum", "weights": {"pcvr": 1.0}}
    assert put(running, SUM, profiles={"cvr": cvr}, experiments={"weights": experiment}).status_code == 200
    wait_for_revision(kit, running, 5)
    counted = {"a": 0, "b": 0, None: 0}
    for user in map(str, range(60)):
        fusion = rank(running, user_id=user).json()["fusion"]
        place = place_of(user, "spring")
        expected = ("a", "default") if place < 4000 else ("b", "cvr") if place < 8000 else (None, "default")
        assert (fusion.get("arm"), fusion["profile"]) == expected
        counted[expected[0]] += 1
    assert min(counted.values()) > 3
    counted_b = f'funnelrank_experiment_rankings_total{{arm="b",experiment="weights"}} {float(counted["b"])}'
    kit.wait_until(
        lambda: counted_b in running.http.get("/metrics").text
    )  # the other worker's counts follow in a moment


def test_a_broken_fusion_document_changes_nothing_also_after_a_restart(
    running: Any, tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    assert put(running, {"kind": "weighted_sum", "weights": {"pctr": 5.0}}).status_code == 200
    wait_for_revision(kit, running, 5)
    write_whole(registry / FUSION_FILE, b"{")  # at once, so that each worker sees one broken document
    kit.wait_until(
        lambda: 'funnelrank_model_swaps_total{result="fusion_refused"} 2.0' in running.http.get("/metrics").text
    )
    assert rank(running).json()["fusion"]["revision"] == 5
    with kit.serving(tmp_path, registry, redis_server.url) as restarted:
        assert rank(restarted).json()["fusion"]["revision"] == 5
        assert put(restarted, SUM).json()["revision"] == 6
        kit.wait_until(lambda: rank(restarted).json()["fusion"]["revision"] == 6)
