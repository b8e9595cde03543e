"""Tests `POST /rank` over HTTP with two workers and a real Redis."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from features.layouts import Layouts
from service.store.redis.keys import item_key, user_key

PROBLEM = "application/problem+json"


@pytest.fixture
def known(store: redis.Redis, layouts: Layouts) -> list[str]:
    """Store twenty items and user 712."""
    ids = [str(i) for i in range(20)]
    for i in ids:
        row = {"item_id": i, "tag": int(i) % 3, "topics": ["a", i], "price": float(i) * 1.5, "quality": None}
        store.set(item_key(layouts.fingerprint, i), layouts.item.pack(row))
    store.set(user_key(layouts.fingerprint, "712"), layouts.user.pack({"user_id": "712", "gender": "f", "age": 30}))
    return ids


def by_hand(
    kit: SimpleNamespace, layouts: Layouts, store: redis.Redis, ids: list[str], context: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The scores of user 712, who has no behaviours, computed from the stored values."""
    user = layouts.user.rows(store.get(user_key(layouts.fingerprint, "712")))  # type: ignore[arg-type]
    items = layouts.item.rows(b"".join(store.mget([item_key(layouts.fingerprint, i) for i in ids])))  # type: ignore[arg-type]
    rows = {"user": user, "item": items, "context": layouts.context.rows(layouts.context.pack(context))}
    assert layouts.behaviour is not None
    rows["behaviour"] = layouts.behaviour.empty(0)
    inputs = {f"{n}_{part}": r[part] for n, r in rows.items() for part in ("keys", "numerics")}
    return dict(kit.scores_by_hand(inputs | {"behaviour_times": np.zeros(0, dtype=np.int64)}))


def test_a_ranking_is_the_models_scores_fused_and_ordered(
    server: Any, kit: SimpleNamespace, layouts: Layouts, store: redis.Redis, known: list[str]
) -> None:
    answer = server.rank(known, scene="home", context={"tab": 1, "hour": 13}, request_id="r-1")
    assert answer.status_code == 200
    body = answer.json()
    assert body["request_id"] == answer.headers["x-request-id"] == "r-1"
    assert body["model"] == {"name": "synthetic", "version": "1", "role": "stable"}
    assert body["fusion"] == {"profile": "home", "revision": 4}
    assert body["degraded"] == []
    assert body["coverage"] == {"requested": 20, "scored": 20}
    expected = by_hand(kit, layouts, store, known, {"tab": 1, "hour": 13})
    fused = 0.5 * expected["pctr"] + 2 * expected["pctcvr"]
    assert [e["item_id"] for e in body["ranking"]] == [known[i] for i in np.argsort(-fused, kind="stable")]
    assert [e["rank"] for e in body["ranking"]] == list(range(1, 21))
    for entry in body["ranking"]:
        place = known.index(entry["item_id"])
        for task in kit.TASKS:
            assert entry["predictions"][task] == pytest.approx(float(expected[task][place]), abs=1e-5)
        assert entry["score"] == pytest.approx(
            0.5 * entry["predictions"]["pctr"] + 2 * entry["predictions"]["pctcvr"], abs=1e-7
        )


def test_top_k_cuts_and_ties_keep_the_order_of_the_request(server: Any, known: list[str]) -> None:
    same = [
        {"item_id": i, "features": {"item_id": None, "tag": None, "topics": None, "price": None, "quality": 1}}
        for i in ("b", "a", "d", "c")
    ]
    ranking = server.rank(same).json()["ranking"]
    assert [e["item_id"] for e in ranking] == ["b", "a", "d", "c"]
    assert [e["item_id"] for e in server.rank(same, top_k=2).json()["ranking"]] == ["b", "a"]
    assert len(server.rank(known, top_k=1000).json()["ranking"]) == 20


def test_explain_shows_score_weight_and_part_of_every_task(server: Any, known: list[str]) -> None:
    for entry in server.rank(known, scene="home", explain=True).json()["ranking"]:
        assert set(entry["explain"]) == {"pctr", "pctcvr"}
        assert sum(e["part"] for e in entry["explain"].values()) == pytest.approx(entry["score"], abs=1e-9)
        assert entry["explain"]["pctcvr"]["weight"] == 2.0
        assert entry["explain"]["pctcvr"]["score"] == entry["predictions"]["pctcvr"]
    for entry in server.rank(known, scene="shop", explain=True).json()["ranking"]:
        parts = entry["explain"]
        assert parts["pctr"]["part"] * parts["pcvr"]["part"] == pytest.approx(entry["score"], rel=1e-9)
        assert np.exp(parts["pcvr"]["log_part"]) == pytest.approx(parts["pcvr"]["part"], rel=1e-9)


def test_weights_of_ones_own_replace_the_profiles(server: Any, known: list[str]) -> None:
    body = server.rank(known, fusion={"weights": {"pctr": 0, "pcvr": 3.0}}).json()
    assert body["fusion"] == {"profile": "default", "revision": 4, "overridden": True}
    assert all(e["score"] == pytest.approx(3 * e["predictions"]["pcvr"], abs=1e-6) for e in body["ranking"])


def test_unknown_user_and_items_are_ranked_on_defaults_and_reported(server: Any, known: list[str]) -> None:
    body = server.rank(["1", "new", "2", "newer"], user_id="nobody").json()
    assert body["degraded"] == ["unknown_user", "unknown_items:2"]
    assert len(body["ranking"]) == 4


def test_rows_of_another_length_are_ranked_on_defaults_and_reported(
    server: Any, known: list[str], store: redis.Redis, layouts: Layouts
) -> None:
    store.set(item_key(layouts.fingerprint, "3"), b"rubbish")
    assert server.rank(known).json()["degraded"] == ["corrupt_rows:1", "unknown_items:1"]


def test_ids_of_any_kind_come_back_unchanged(server: Any, known: list[str]) -> None:
    ids = [",", '"', "a b", "\\", "汉字", "é\n", "{x}", "fr:x", "'", "\u2028"]
    assert {e["item_id"] for e in server.rank(ids).json()["ranking"]} == set(ids)


def test_trace_and_request_id_are_passed_on(server: Any, known: list[str]) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-Id": "abc-1"}
    answer = server.http.post("/rank", json={"user_id": "1", "candidates": ["1"]}, headers=headers)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "abc-1"
    assert answer.headers["traceparent"].startswith(f"00-{trace}-")
    assert answer.headers["traceparent"].endswith("-01")
    assert "00f067aa0ba902b7" not in answer.headers["traceparent"]
    odd = server.http.get("/livez", headers={"traceparent": "00-zz", "X-Request-Id": "with space"})
    assert "traceparent" not in odd.headers
    assert odd.headers["x-request-id"] not in ("", "with space")


def test_the_openapi_document_shows_rank_with_an_example(server: Any) -> None:
    document = server.http.get("/openapi.json").json()
    schema = document["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    model = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    assert model["properties"]["candidates"]["maxItems"] == 2000
    assert "candidates" in model["example"]
    assert set(document["paths"]) >= {
        "/rank",
        "/events",
        "/features/users",
        "/features/items",
        "/fusion",
        "/models",
        "/models/rollout",
        "/livez",
    }
    assert '"HTTPValidationError"' not in json.dumps(document)
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])
    assert server.http.get("/docs").status_code == 200


def test_a_body_over_the_limit_is_refused_with_and_without_a_length(server: Any) -> None:
    big = b'{"user_id": "' + b"x" * 3_000_000 + b'"}'

    def in_pieces() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    for content in (big, in_pieces()):
        answer = server.http.post("/rank", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_paths_and_methods_that_do_not_exist_have_the_envelope_too(server: Any) -> None:
    missing = server.http.get("/nothing")
    wrong = server.http.get("/rank")
    assert (missing.status_code, missing.json()["code"], missing.headers["content-type"]) == (404, "not_found", PROBLEM)
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


def test_a_missed_deadline_is_a_504(server: Any, known: list[str]) -> None:
    ids = [str(i) for i in range(2000)]
    answers = [server.rank_too_late(ids) for _ in range(5)]
    assert {a.status_code for a in answers} == {504}
    assert answers[0].json()["code"] == "deadline_exceeded"
    assert server.rank(ids, timeout_ms=5000).status_code == 200
