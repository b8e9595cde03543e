"""Tests several versions at once, over real HTTP: canary, shadow, gate, rollback by an operator and by the service."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
import redis

from service.rollout.rollout import ROLLOUT_FILE
from service.sample.embedded_redis import EmbeddedRedis
from service.user_split import within

USERS = [str(i) for i in range(60)]
STABLE = {"name": "synthetic", "version": "1"}
CANARY = {"name": "synthetic", "version": "2"}


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        yield server


def versions_by_user(server: Any) -> dict[str, tuple[str, str]]:
    """user -> (version, role), over new connections, so that every worker gets requests."""
    by_user = {}
    for user in USERS:
        model = fresh_http.post(f"{server.url}/rank", json={"user_id": user, "candidates": ["1"]}).json()["model"]
        by_user[user] = (model["version"], model["role"])
    return by_user


def metric(server: Any, name: str) -> float:
    lines = [x for x in server.http.get("/metrics").text.splitlines() if x.startswith(name)]
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines)


def roll_out(server: Any, **document: Any) -> httpx.Response:
    answer: httpx.Response = server.put("/models/rollout", document)
    return answer


def post(server: Any, path: str, body: Any = None) -> httpx.Response:
    answer: httpx.Response = server.http.post(path, json=body, headers={"Authorization": "Bearer secret"})
    return answer


def everywhere(server: Any, role: str) -> set[str | None]:
    """The version that each worker has in a role, by the `GET /models` of one worker."""
    workers = server.http.get("/models").json()["workers"]
    return {w[role]["version"] if w[role] else None for w in workers} if len(workers) == 2 else set()


def test_a_canary_gets_its_share_of_users_and_each_user_keeps_their_version(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    kit.publish(registry, "2", bias=0.1)
    answer = roll_out(running, canary=CANARY | {"percent": 30}, author="ann", reason="first look")
    assert answer.status_code == 200
    assert answer.json()["stable"] == STABLE, "what is not named keeps its value"
    kit.wait_until(lambda: everywhere(running, "canary") == {"2"})
    by_user = versions_by_user(running)
    assert by_user == {u: ("2", "canary") if within(u, "synthetic/2", 30) else ("1", "stable") for u in USERS}
    assert versions_by_user(running) == by_user
    assert roll_out(running, canary=CANARY | {"percent": 60}).status_code == 200
    kit.wait_until(lambda: {w["canary"]["percent"] for w in running.http.get("/models").json()["workers"]} == {60})
    more = versions_by_user(running)
    assert all(more[u] == ("2", "canary") for u in USERS if by_user[u][1] == "canary"), (
        "raising the percentage takes nobody's version"
    )
    assert metric(running, 'funnelrank_model_info{name="synthetic",role="canary",version="2"}') == 1
    assert roll_out(running, stable=CANARY).json()["canary"] is None, "a canary that became stable is none any more"
    kit.wait_until(lambda: set(versions_by_user(running).values()) == {("2", "stable")})
    assert metric(running, 'funnelrank_model_swaps_total{result="taken"}') == 4, (
        "what is loaded already is not loaded again"
    )


def test_a_canary_that_cannot_be_loaded_leaves_its_users_with_the_stable_version(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    kit.publish(registry, "2", golden_nan=True)
    assert roll_out(running, canary=CANARY | {"percent": 100}).status_code == 200
    kit.wait_until(lambda: running.http.get("/models").json()["rollout"]["author"] == "automatic")
    assert set(versions_by_user(running).values()) == {("1", "stable")}
    document = running.http.get("/models").json()["rollout"]
    assert (document["canary"], document["stable"]) == (None, STABLE)
    assert "golden_not_finite" in document["reason"]
    kit.wait_until(lambda: metric(running, 'funnelrank_model_swaps_total{result="golden_not_finite"}') >= 1)
    refused = [w["refused"][0] for w in running.http.get("/models").json()["workers"] if w["refused"]]
    assert {r["model"] for r in refused} == {"synthetic/2"}
    assert all("NaN" in r["detail"] for r in refused)


def test_one_call_goes_back_and_the_history_tells_who_and_why(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    for version, stable in (("2", {"name": "synthetic", "version": "2"}), ("3", "synthetic/3")):
        kit.publish(registry, version)
        assert roll_out(running, stable=stable, author="ann", reason=f"try {version}").status_code == 200
    document = post(running, "/models/rollback").json()
    assert (document["stable"]["version"], document["revision"], document["restores"]) == ("2", 4, 2)
    again = post(running, "/models/rollback", {"author": "bob", "reason": "worse still"}).json()
    assert (again["stable"]["version"], again["author"]) == ("1", "bob"), (
        "going back twice does not lead to what was withdrawn"
    )
    entries = [(h["revision"], h["stable"]["version"], h["reason"], h["withdrawn"]) for h in again["history"]]
    assert entries == [
        (4, "2", "back from revision 3 to 2", True),
        (3, "3", "try 3", True),
        (2, "2", "try 2", True),
        (1, "1", "", False),
    ]
    kit.wait_until(lambda: everywhere(running, "live") == {"1"})
    nothing = post(running, "/models/rollback")
    assert (nothing.status_code, nothing.json()["code"]) == (409, "conflict")
    assert post(running, "/models/rollback", {"to": 3}).json()["stable"]["version"] == "3"
    assert running.http.post("/models/rollback").status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"stable": None},
        {"canary": STABLE},
        {"canary": CANARY | {"percent": 101}},
        {"canary": CANARY | {"percent": "nan"}},
        {"limits": {"psi": 0}},
        {"limits": {"fun": 1}},
        {"shadow": {"name": "../x", "version": "1"}},
        {"shadow": "../x/1"},
        {"stable": "synthetic"},
        {"first_pass": "synthetic/1/2"},
    ],
)
def test_a_document_that_says_nothing_that_can_be_done_is_refused(server: Any, body: Any) -> None:
    answer = server.put("/models/rollout", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def ask_much(server: Any, requests: int = 24, candidates: int = 100) -> None:
    """Send rankings on new connections, enough for both workers to judge a version."""
    items = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": str(i % 7)}} for i in range(candidates)]
    for i in range(requests):
        answer = fresh_http.post(f"{server.url}/rank", json={"user_id": USERS[i % len(USERS)], "candidates": items})
        assert answer.status_code == 200


def test_a_version_that_scores_otherwise_is_stopped_at_the_gate_with_the_numbers(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    kit.publish(registry, "2", bias=4.0)
    kit.publish(registry, "3", bias=0.01)
    ask_much(running, 60)
    assert roll_out(running, stable=CANARY).status_code == 200
    kit.wait_until(
        lambda: running.http.get("/models").json()["rollout"]["author"] == "automatic",
        recovery="version that scores otherwise, from its going live",
    )
    document = running.http.get("/models").json()["rollout"]
    assert document["stable"] == STABLE
    assert "score_drift: pctr: PSI" in document["reason"]
    kit.wait_until(lambda: everywhere(running, "live") == {"1"})
    assert set(versions_by_user(running).values()) == {("1", "stable")}
    assert metric(running, 'funnelrank_automatic_rollbacks_total{role="stable"}') == 1
    roll_out(running, stable={"name": "synthetic", "version": "3"})
    kit.wait_until(lambda: everywhere(running, "live") == {"3"})
    reports = [w["gate"].get("synthetic/3") for w in running.http.get("/models").json()["workers"]]
    # The system may give most connections to one worker. A worker with few requests has nothing to compare.
    compared = [r for r in reports if r and "pctr" in r["psi"] and r["latency_ratio"] is not None]
    assert compared
    for report in compared:
        assert report["psi"]["pctr"] < 0.1
        assert report["latency_ratio"] < 3
        assert report["against"] == "synthetic/1"


def test_an_operator_may_lift_a_limit(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2", bias=4.0)
    ask_much(running, 60)
    assert roll_out(running, stable=CANARY, limits={"psi": None}).json()["limits"]["latency_ratio"] == 3.0
    kit.wait_until(lambda: everywhere(running, "live") == {"2"})


def test_going_back_is_never_stopped_by_the_gate(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2", bias=4.0)
    roll_out(running, stable=CANARY, limits={"psi": None})
    kit.wait_until(lambda: everywhere(running, "live") == {"2"})
    assert roll_out(running, limits={"psi": 0.1}).status_code == 200
    ask_much(running, 60)
    post(running, "/models/rollback", {"to": 1})
    kit.wait_until(lambda: everywhere(running, "live") == {"1"})


def test_a_canary_whose_scores_run_away_is_taken_back_by_itself(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    kit.publish(registry, "2", bias=3.0)
    assert (
        roll_out(running, canary=CANARY | {"percent": 50}, limits={"min_requests": 10, "min_scores": 100}).status_code
        == 200
    )
    kit.wait_until(lambda: everywhere(running, "canary") == {"2"})
    ask_much(running, 120, 20)
    kit.wait_until(lambda: running.http.get("/models").json()["rollout"]["canary"] is None)
    document = running.http.get("/models").json()["rollout"]
    assert (document["author"], document["stable"]) == ("automatic", STABLE)
    assert "PSI" in document["reason"] and "limits.psi" in document["reason"]
    kit.wait_until(lambda: set(versions_by_user(running).values()) == {("1", "stable")})
    assert metric(running, 'funnelrank_automatic_rollbacks_total{role="canary"}') == 1


def test_a_canary_that_fails_is_taken_back_by_itself(running: Any, registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2", nan_above=50.0)
    assert roll_out(running, canary=CANARY | {"percent": 50}, limits={"min_requests": 10}).status_code == 200
    kit.wait_until(lambda: everywhere(running, "canary") == {"2"})
    ask_much(running, 80, 60)
    kit.wait_until(
        lambda: running.http.get("/models").json()["rollout"]["author"] == "automatic",
        recovery="canary that fails, from enough rankings",
    )
    document = running.http.get("/models").json()["rollout"]
    assert "error rate" in document["reason"] and "limits.error_rate" in document["reason"]
    refused = {r["code"] for w in running.http.get("/models").json()["workers"] for r in w["refused"]}
    assert refused == {"canary_broke_limits"}


def test_a_shadow_scores_in_the_background_and_answers_nobody(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    kit.publish(registry, "2", bias=2.0)
    assert roll_out(running, shadow=CANARY, limits={"psi": None, "shadow_share": 1.0}).status_code == 200
    kit.wait_until(lambda: everywhere(running, "shadow") == {"2"})
    ask_much(running, 100, 40)
    assert set(versions_by_user(running).values()) == {("1", "stable")}
    scored = 'funnelrank_shadow_rankings_total{result="scored"}'
    kit.wait_until(lambda: metric(running, scored) >= 60)
    # The metrics page shows it within a moment; each ranking is offered once.
    answered = 'funnelrank_rankings_total{result="ok",role="stable"}'
    kit.wait_until(lambda: metric(running, "funnelrank_shadow_rankings_total") <= metric(running, answered))
    assert metric(running, "funnelrank_shadow_top10_overlap_ratio_count") > 0
    assert metric(running, 'funnelrank_shadow_rank_correlation_bucket{le="-0.5"}') == 0
    kit.wait_until(lambda: metric(running, 'funnelrank_shadow_score_psi{task="pctr"}') > 0.5)
    assert metric(running, 'funnelrank_shadow_score_psi{task="pcvr"}') < 0.2
    roll_out(running, shadow=None)
    kit.wait_until(lambda: everywhere(running, "shadow") == {None})


def test_a_restart_with_a_broken_document_follows_the_last_good_one(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    kit.publish(registry, "2")
    kit.go_live(registry, "2")
    (registry / ROLLOUT_FILE).write_text('{"revision": 9, "sta')
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        assert server.rank(["1"]).json()["model"]["version"] == "2"
        shown = server.http.get("/models").json()
        assert "last good one, is followed" in shown["worker"]["refused"][0]["detail"]
        assert "problem" in shown
        assert metric(server, 'funnelrank_document_unreadable{document="rollout"}') == 1
        assert roll_out(server, stable=STABLE).json()["revision"] == 3
        kit.wait_until(lambda: server.rank(["1"]).json()["model"]["version"] == "1")
        assert metric(server, 'funnelrank_document_unreadable{document="rollout"}') == 0
    assert json.loads((registry / ROLLOUT_FILE).read_text())["history"][0]["stable"]["version"] == "2"
