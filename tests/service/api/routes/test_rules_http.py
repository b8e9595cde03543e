"""Tests rules that change while the service ranks: revisions, scenes, experiments, refusals, versions in use."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from rules_service import BLOCK, BY_PRICE, FUSION, ITEMS, PIN, TOKEN, hold, ids, put, rank, wait_for_revision
from synthetic_bundle import with_vectors

from features.files.writing import write_whole
from service.bundle.registry import Target
from service.documents import Edit
from service.rollout.lines.changes import change_rollout
from service.rules.definition.document import RULES_FILE
from service.sample.embedded_redis import EmbeddedRedis
from service.user_split import place_of


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    (tmp_path / "fusion.yaml").write_text(FUSION)
    options = {"workers": 2, "fusion_file": tmp_path / "fusion.yaml"}
    with kit.serving(tmp_path, registry, redis_server.url, **options) as server:
        yield server


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """One service for tests that each write a whole document of their own."""
    folder = tmp_path_factory.mktemp("rules")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    (folder / "fusion.yaml").write_text(FUSION)
    options = {"workers": 2, "fusion_file": folder / "fusion.yaml"}
    with kit.serving(folder, folder / "registry", redis_server.url, **options) as server:
        yield server


def test_rules_hold_on_every_worker_and_every_answer_fits_its_revision(running: Any, kit: SimpleNamespace) -> None:
    before = rank(running)
    assert ids(before) == BY_PRICE
    assert "rules" not in before
    answer = put(running, PIN, BLOCK, author="ann", reason="spring")
    assert (answer.status_code, answer.json()["revision"], answer.headers["etag"]) == (200, 1, '"1"')
    for _ in range(40):
        body = rank(running)
        if "rules" in body:
            assert body["rules"] == {"revision": 1, "name": "default", "relaxed": [], "removed": {"1:block": 1}}
            assert ids(body) == ["10", "0", *BY_PRICE[2:-1]]
            assert [entry["rank"] for entry in body["ranking"]] == list(range(1, 12))
        else:
            assert ids(body) == BY_PRICE
    wait_for_revision(kit, running, 1)
    assert "rules" in rank(running)
    shown = running.http.get("/rules").json()
    assert (shown["rules"], shown["author"], shown["reason"]) == ({"default": [PIN, BLOCK]}, "ann", "spring")


def test_a_scene_has_its_own_rules_and_every_other_the_default(shared: Any, kit: SimpleNamespace) -> None:
    hold(kit, shared, BLOCK, rules={"shop": [PIN], "home": []})
    assert ids(rank(shared)) == BY_PRICE[1:]
    shop = rank(shared, scene="shop")
    assert (shop["rules"]["name"], ids(shop)) == ("shop", ["11", "0", *BY_PRICE[1:-1]])
    home = rank(shared, scene="home")
    assert "rules" not in home, "a scene with an empty list has no rules"
    assert ids(home) == BY_PRICE


def test_one_call_restores_the_rules_before_and_the_first_ones_can_be_left(running: Any, kit: SimpleNamespace) -> None:
    nothing = running.http.post("/rules/rollback", headers=TOKEN)
    assert (nothing.status_code, nothing.json()["code"]) == (409, "conflict")
    assert put(running, PIN).status_code == 200
    assert put(running, BLOCK, revision=1).json()["revision"] == 2
    stale = put(running, PIN, revision=1)
    assert (stale.status_code, stale.json()["code"]) == (409, "conflict")
    back = running.http.post("/rules/rollback", headers=TOKEN | {"If-Match": '"2"'}).json()
    assert (back["revision"], back["restores"], back["rules"]) == (3, 1, {"default": [PIN]})
    none = running.http.post("/rules/rollback", headers=TOKEN, json={"author": "bob"}).json()
    assert (none["rules"], none["author"]) == ({}, "bob")
    wait_for_revision(kit, running, 4)
    assert ids(rank(running)) == BY_PRICE
    assert running.http.post("/rules/rollback").status_code == 401
    assert running.http.put("/rules", json={"rules": {}}).status_code == 401


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "rules", "Field required"),
        ({"rules": {"home": [{"type": "spread", "feature": "tga", "distance": 2}]}}, "rules.home[0].feature", "'tag'"),
        ({"rules": {"home": [{"type": "spread", "feature": "price", "distance": 2}]}}, "rules.home[0].feature", "cate"),
        ({"rules": {"home": [{"type": "boost", "formula": "scor * 2"}]}}, "rules.home[0].formula", "'score'"),
        ({"rules": {"home": [{"type": "boost", "formula": "score * ("}]}}, "rules.home[0].boost", "column"),
        ({"rules": {"home": [PIN, PIN | {"item_id": "3"}]}}, "rules.home", "two pins to position 2"),
        ({"rules": {"home": [PIN, {"type": "block", "item_ids": ["0"]}]}}, "rules.home", "pinned and blocked"),
        ({"rules": {"home": [{"type": "spred"}]}}, "rules.home[0]", "spread"),
        (
            {"rules": {"home": [{"type": "quota", "feature": "tag", "one_of": ["1"], "at_least": 4, "first": 3}]}},
            "rules.home[0].quota",
            "it can never hold",
        ),
        (
            {"rules": {}, "experiments": {"e": {"arms": [{"name": "a", "rules": "home", "percent": 5}]}}},
            "",
            "no rules 'home'",
        ),
    ],
)
def test_rules_that_cannot_hold_are_refused_with_their_field(server: Any, body: Any, field: str, words: str) -> None:
    before = server.http.get("/rules").json()
    answer = server.put("/rules", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert words in answer.json()["errors"][0]["message"]
    assert server.http.get("/rules").json() == before


def test_rules_that_empty_every_recent_list_of_their_scene_are_refused(shared: Any, kit: SimpleNamespace) -> None:
    for _ in range(40):
        rank(shared, scene="home")
    block_all = {"type": "block", "when": {"feature": "price", "at_least": 0}}
    # Both workers have seen requests of this scene.
    answer = put(shared, block_all, scene="home")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "rules.home"
    assert "would stay" in answer.json()["errors"][0]["message"]
    hold(kit, shared, block_all, scene="shop")
    empty = rank(shared, scene="shop")
    assert (empty["ranking"], empty["rules"]["removed"]) == ([], {"0:block": 12})
    assert rank(shared, scene="shop", explain=True)["ranking"] == []


def test_relaxed_rules_are_named_in_the_operators_order(shared: Any, kit: SimpleNamespace) -> None:
    one_tag = {"type": "quota", "feature": "tag", "at_most": 0, "first": 1}
    no_tag = {"type": "quota", "feature": "tag", "at_most": 0, "first": 2}
    hold(kit, shared, one_tag, PIN, no_tag)
    body = rank(shared)
    assert body["rules"]["relaxed"] == ["0:quota", "2:quota"]
    assert ids(body) == ["11", "0", *BY_PRICE[1:-1]]
    for rule, result in (("0:quota", "relaxed"), ("1:pin", "acted"), ("2:quota", "relaxed")):
        line = f'funnelrank_rule_results_total{{result="{result}",rule="{rule}",rules="default"}} '
        kit.wait_until(lambda line=line: line in shared.http.get("/metrics").text)


def test_sources_take_turns(shared: Any, kit: SimpleNamespace) -> None:
    hold(kit, shared, {"type": "interleave", "pattern": ["new", "near"]})
    candidates = [item | {"source": "new" if i < 3 else "near"} for i, item in enumerate(ITEMS)]
    order = ["2", "11", "1", "10", "0", *BY_PRICE[2:9]]
    assert ids(rank(shared, candidates=candidates)) == order


def test_an_experiment_splits_users_and_names_their_arm(shared: Any, kit: SimpleNamespace) -> None:
    arms = [{"name": "with", "rules": "default", "percent": 40}, {"name": "without", "rules": "none", "percent": 40}]
    experiment = {"salt": "spring", "arms": arms}
    hold(kit, shared, BLOCK, rules={"none": []}, experiments={"blocking": experiment})
    counted = {"with": 0, "without": 0, None: 0}
    for user in map(str, range(60)):
        body = rank(shared, user_id=user)
        place = place_of(user, "spring")
        arm = "with" if place < 4000 else "without" if place < 8000 else None
        assert body["rules"].get("arm") == arm
        assert ids(body) == (BY_PRICE if arm == "without" else BY_PRICE[1:])
        counted[arm] += 1
    assert min(counted.values()) > 3


def without_price(schema: Any) -> Any:
    other = json.loads(json.dumps(schema))
    other["item"][3] = {"name": "cost", "type": "numeric"}
    other["behaviour"]["item_features"] = ["item_id", "tag", "cost"]
    return other


def test_a_version_without_a_feature_that_live_rules_name_is_refused_and_so_are_rules_that_it_lacks(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    by_price = {"type": "block", "when": {"feature": "price", "at_least": 11}}
    assert running.put(
        "/fusion", {"profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1}}}}
    ).is_success
    assert put(running, by_price).status_code == 200
    wait_for_revision(kit, running, 1)
    kit.publish(registry, "2", schema=without_price(kit.SCHEMA))
    refused = running.put("/models/rollout", {"stable": {"name": "synthetic", "version": "2"}})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "rules_mismatch: rules.default[0].when.feature: " in refused.json()["detail"]
    assert "11" not in ids(rank(running))
    # The workers refuse a document that was written without checks, and it is withdrawn.
    change_rollout(registry, {"stable": Target(name="synthetic", version="2")}, Edit("ann"))
    kit.wait_until(lambda: running.http.get("/models").json()["rollout"]["revision"] == 3)
    # The worker that refused first withdrew it; the other one may have seen nothing of it.
    codes = {
        refusal["code"]
        for worker in running.http.get("/models").json()["workers"]
        for refusal in worker["refused"]
        if refusal["model"] == "synthetic/2"
    }
    assert codes == {"rules_mismatch"}
    assert rank(running)["model"]["version"] == "1"
    # Rules must fit the canary too.
    assert put(running, PIN).status_code == 200
    canary = {"name": "synthetic", "version": "2", "percent": 1}
    assert running.put("/models/rollout", {"canary": canary}).status_code == 200
    kit.wait_until(lambda: all(w["canary"] for w in running.http.get("/models").json()["workers"]))
    misfit = put(running, by_price)
    assert misfit.status_code == 422
    assert "canary synthetic/2" in misfit.json()["detail"]


def test_rules_may_name_a_vector_of_the_graph_if_every_loaded_version_gives_it(
    running: Any, registry: Path, kit: SimpleNamespace
) -> None:
    diverse = {"type": "diversity", "method": "mmr", "weight": 1.0, "vector": {"output": "item_vector"}}
    before = running.http.get("/rules").json()
    # The stable version gives no vector.
    lacking = put(running, diverse)
    assert (lacking.status_code, lacking.json()["errors"][0]["field"]) == (422, "rules.default[0].vector.output")
    assert "no item vector 'item_vector'" in lacking.json()["detail"]
    assert "(stable synthetic/1)" in lacking.json()["detail"]
    assert running.http.get("/rules").json() == before
    # The next version does.
    with_vectors(kit.publish(registry, "2"))
    stable = {"stable": {"name": "synthetic", "version": "2"}}
    assert running.put("/models/rollout", stable).is_success
    kit.wait_until(lambda: [w["live"]["version"] for w in running.http.get("/models").json()["workers"]] == ["2"] * 2)
    hold(kit, running, diverse)
    # By hand: prices 0 to 11 at quality 1 and the cosine of (price, 1); the best is first, the most different second.
    assert ids(rank(running))[:2] == ["11", "0"]
    assert list(rank(running)["ranking"][0]["predictions"]) == ["pctr", "pcvr", "pctcvr"]
    misnamed = put(running, diverse | {"vector": {"output": "item_vectr"}})
    assert "did you mean 'item_vector'?" in misnamed.json()["detail"]
    of_user = put(running, diverse | {"vector": {"output": "user_representation"}})
    assert "no item vector 'user_representation'" in of_user.json()["detail"]
    plain = put(running, diverse | {"vector": "item_vector"})
    assert "write {output: item_vector}" in plain.json()["detail"]
    # A version that lacks the vector is refused while rules read it.
    kit.publish(registry, "3")
    refused = running.put("/models/rollout", {"stable": {"name": "synthetic", "version": "3"}})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "rules_mismatch: rules.default[0].vector.output: " in refused.json()["detail"]
    assert running.http.get("/rules").json()["revision"] == 1


def test_a_broken_rules_document_changes_nothing_also_after_a_restart(
    running: Any, tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    assert put(running, BLOCK).status_code == 200
    wait_for_revision(kit, running, 1)
    write_whole(registry / RULES_FILE, b"{")  # at once, so that each worker sees one broken document
    kit.wait_until(
        lambda: 'funnelrank_model_swaps_total{result="rules_refused"} 2.0' in running.http.get("/metrics").text
    )
    assert ids(rank(running)) == BY_PRICE[1:]
    with kit.serving(tmp_path, registry, redis_server.url, fusion_file=tmp_path / "fusion.yaml") as restarted:
        assert ids(rank(restarted)) == BY_PRICE[1:]
        assert put(restarted, PIN).json()["revision"] == 2
        kit.wait_until(lambda: rank(restarted)["rules"]["revision"] == 2)
