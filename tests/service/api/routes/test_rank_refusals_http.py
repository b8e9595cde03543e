"""Tests that `POST /rank` refuses bad input by field, in the same envelope as all errors."""

import json
from typing import Any

import pytest

PROBLEM = "application/problem+json"
BAD: list[tuple[Any, int, str, str | None]] = [
    (b"{", 400, "malformed_json", None),
    (b"", 400, "malformed_json", None),
    (b"\xff\xfe", 400, "malformed_json", None),
    (b'{"user_id": "\\ud800", "candidates": ["1"]}', 400, "malformed_json", None),
    (b"[" * 100_000, 400, "malformed_json", None),
    (b"[]", 422, "invalid_request", "body"),
    (b"null", 422, "invalid_request", "body"),
    ({}, 422, "invalid_request", "user_id"),
    ({"user_id": 7}, 422, "invalid_request", "user_id"),
    ({"user_id": ""}, 422, "invalid_request", "user_id"),
    ({"candidates": []}, 422, "invalid_request", "candidates"),
    ({"candidates": "1"}, 422, "invalid_request", "candidates"),
    ({"candidates": ["1", "2", "1"]}, 422, "invalid_request", "candidates[2]"),
    ({"candidates": ["1", {"item_id": "1"}]}, 422, "invalid_request", "candidates[1]"),
    ({"candidates": ["1", 2]}, 422, "invalid_request", "candidates[1]"),
    ({"candidates": ["1", None]}, 422, "invalid_request", "candidates[1]"),
    ({"candidates": ["1", ""]}, 422, "invalid_request", "candidates[1]"),
    ({"candidates": ["x" * 257]}, 422, "invalid_request", "candidates[0]"),
    ({"candidates": [{"features": {}}]}, 422, "invalid_request", "candidates[0].item_id"),
    ({"candidates": [{"item_id": "1", "price": 3}]}, 422, "invalid_request", "candidates[0].price"),
    ({"candidates": [str(i) for i in range(2001)]}, 422, "invalid_request", "candidates"),
    (
        {"candidates": [{"item_id": "1", "features": {"price": "3"}}]},
        422,
        "invalid_request",
        "candidates[0].features.price",
    ),
    (
        {"candidates": [{"item_id": "1", "features": {"colour": 3}}]},
        422,
        "invalid_request",
        "candidates[0].features.colour",
    ),
    (
        b'{"user_id":"1","candidates":[{"item_id":"1","features":{"price":NaN}}]}',
        422,
        "invalid_request",
        "candidates[0].features.price",
    ),
    (
        b'{"user_id":"1","candidates":[{"item_id":"1","features":{"tag":Infinity}}]}',
        422,
        "invalid_request",
        "candidates[0].features.tag",
    ),
    ({"context": {"weather": 1}}, 422, "invalid_request", "context.weather"),
    ({"context": {"hour": []}}, 422, "invalid_request", "context.hour"),
    ({"context": []}, 422, "invalid_request", "context"),
    ({"scene": "moon"}, 422, "invalid_request", "scene"),
    ({"fusion": {"weights": {"plike": 1}}}, 422, "invalid_request", "fusion.weights.plike"),
    ({"fusion": {"weights": {"pctr": "much"}}}, 422, "invalid_request", "fusion.weights.pctr"),
    ({"fusion": {"weights": {"pctr": "1"}}}, 422, "invalid_request", "fusion.weights.pctr"),
    ({"fusion": {"weights": {"pctr": True}}}, 422, "invalid_request", "fusion.weights.pctr"),
    (
        b'{"user_id":"1","candidates":["1"],"fusion":{"weights":{"pctr":NaN}}}',
        422,
        "invalid_request",
        "fusion.weights.pctr",
    ),
    ({"top_k": 0}, 422, "invalid_request", "top_k"),
    ({"top_k": 1.5}, 422, "invalid_request", "top_k"),
    ({"timeout_ms": -1}, 422, "invalid_request", "timeout_ms"),
    ({"timestamp": 1_700_000_000}, 422, "invalid_request", "timestamp"),
    ({"timestamp": 2**63}, 422, "invalid_request", "timestamp"),
    ({"timestamp": 10**40}, 422, "invalid_request", "timestamp"),
    ({"request_id": "with space"}, 422, "invalid_request", "request_id"),
    ({"userid": "1"}, 422, "invalid_request", "userid"),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), BAD, ids=range(len(BAD)))
def test_bad_input_is_reported_by_field_in_one_envelope(
    server: Any, body: Any, status: int, code: str, field: str | None
) -> None:
    if isinstance(body, dict) and body:
        body = {"user_id": "1", "candidates": ["1"]} | body
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.http.post("/rank", content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:funnelrank:problem:{code}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert {"title", "detail"} <= set(problem)
    if field is not None:
        assert field in [e["field"] for e in problem["errors"]]


def test_what_is_known_is_reported_beside_what_is_not(server: Any) -> None:
    assert "known: home, shop" in server.rank(["1"], scene="moon").json()["detail"]
    assert "known: tab, hour" in server.rank(["1"], context={"weather": 1}).json()["detail"]
    assert "known: pctr, pcvr, pctcvr" in server.rank(["1"], fusion={"weights": {"x": 1}}).json()["detail"]
    assert "2000" in server.rank([str(i) for i in range(2001)]).json()["detail"]


def test_a_scene_has_a_bounded_length_as_other_labels_have(server: Any) -> None:
    assert "512" in server.rank(["1"], scene="x" * 513).json()["detail"]
    body = server.http.get("/openapi.json").json()["components"]["schemas"]["RankRequest"]
    assert body["properties"]["scene"]["anyOf"][0] == {"type": "string", "maxLength": 512}
