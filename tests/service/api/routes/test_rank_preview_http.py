"""Tests `POST /rank/preview`: the ranking of a chosen version, profile and rules, which counts as no traffic."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis
from rules_service import BLOCK, BY_PRICE, TOKEN, ids
from running_service import wait_until

from service.metrics.metrics import STAGES
from service.sample.embedded_redis import EmbeddedRedis

VERSIONS = ("synthetic/1", "synthetic/2")
ITEMS = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": str(i)}} for i in range(12)]
COUNTERS = ("funnelrank_rankings_total", "funnelrank_degraded_total", "funnelrank_canary")
# Histograms with a value per ranking.
HISTOGRAMS = {f'funnelrank_stage_duration_seconds_count{{stage="{stage}"}}' for stage in STAGES}
HISTOGRAMS |= {"funnelrank_candidates_count", "funnelrank_behaviours_count"}


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


def revision(server: Any, document: str) -> int:
    """The revision of a document that the worker ranks by."""
    number: int = server.http.get("/models").json()["worker"][f"{document}_revision"]
    return number


def measured(server: Any) -> dict[str, float]:
    """The numbers of values of the histograms with a value per ranking."""
    lines = [line.rpartition(" ") for line in server.http.get("/metrics").text.splitlines()]
    return {name: float(count) for name, _, count in lines if name in HISTOGRAMS}


def test_two_rankings_that_are_asked_for_at_once_are_both_answered(running: Any) -> None:
    """A page of the console shows one beside the other."""
    many = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": str(i)}} for i in range(1000)]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda version: preview(running, candidates=many, version=version), VERSIONS * 10))
    assert {answer.status_code for answer in answers} == {200}


def test_every_loaded_version_ranks_and_nothing_is_counted(kit: SimpleNamespace, running: Any) -> None:
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
    # Workers add their counts to the metrics a few times a second.
    kit.wait_until(lambda: measured(running)["funnelrank_candidates_count"] > 0)
    assert measured(running) == dict.fromkeys(HISTOGRAMS, 1.0)


def test_a_version_that_is_not_loaded_is_named_with_those_that_are(running: Any) -> None:
    refused = preview(running, version="synthetic/9")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
    assert refused.json()["detail"] == "synthetic/9 is not loaded; loaded are synthetic/1, synthetic/2"


def test_a_bad_request_is_refused_as_by_rank(running: Any) -> None:
    refused = preview(running, candidates=["1", "1"])
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "candidates[1]")


def test_any_profile_ranks_also_one_that_no_scene_uses(running: Any) -> None:
    profiles = {
        "default": {"kind": "weighted_sum", "weights": {"pctr": 1.0}},
        "dear": {"kind": "formula", "formula": "price + 0 * pctr"},
        "cheap": {"kind": "formula", "formula": "0 * pctr - price"},
    }
    written = running.put("/fusion", {"profiles": profiles, "scenes": {"home": "default"}, "experiments": {}})
    assert written.status_code == 200, written.text
    wait_until(lambda: revision(running, "fusion") == written.json()["revision"])
    dear = preview(running, profile="dear", scene="home").json()
    cheap = preview(running, profile="cheap").json()
    assert (dear["fusion"]["profile"], ids(dear)) == ("dear", BY_PRICE)
    assert (cheap["fusion"]["profile"], ids(cheap)) == ("cheap", BY_PRICE[::-1])
    # With a version beside it: the scores are the version's, the order the profile's.
    both = preview(running, profile="dear", version="synthetic/2").json()
    assert (both["model"]["version"], ids(both)) == ("2", BY_PRICE)
    refused = preview(running, profile="deer")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "profile")
    assert refused.json()["detail"] == "profile: no profile 'deer'; did you mean 'dear'?"


def test_any_rules_apply_also_those_that_no_scene_uses(running: Any) -> None:
    assert preview(running, rules="").json().get("rules") is None
    refused = preview(running, rules="first")
    assert refused.json()["detail"] == "rules: no rules 'first'; known: none"
    lists = {"default": [BLOCK], "first": [{"type": "pin", "item_id": "3", "position": 1}], "empty": []}
    written = running.put("/rules", {"rules": lists})
    assert written.status_code == 200, written.text
    wait_until(lambda: revision(running, "rules") == written.json()["revision"])
    own = preview(running).json()
    assert (own["rules"]["name"], "11" in ids(own)) == ("default", False)
    first = preview(running, rules="first").json()
    assert (first["rules"]["name"], ids(first)[0], len(ids(first))) == ("first", "3", 12)
    for none in ("", "empty"):
        without = preview(running, rules=none).json()
        assert (without.get("rules"), len(ids(without))) == (None, 12)
    refused = preview(running, rules="frist")
    assert refused.json()["detail"] == "rules: no rules 'frist'; did you mean 'first'?"
    # A token of one list is none of another.
    page = preview(running, rules="first", top_k=3).json()["page"]
    assert ids(preview(running, rules="first", top_k=3, page=page).json())[0] not in ids(first)[:3]
    assert preview(running, top_k=3, page=page).status_code == 422
