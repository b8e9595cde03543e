"""Owns the promise that no body, however odd, makes the service fail: every answer is a ranking or a problem of the caller's."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.contract import RankRequest
from service.api.rank import query_of
from service.errors import InvalidRequest
from service.settings import Settings

ROUTES = [("POST", "/rank"), ("POST", "/events"), ("PUT", "/features/users"), ("PUT", "/features/items"), ("PUT", "/models/rollout")]
TEXT = st.text(max_size=8)
SCALAR = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | TEXT
ANYTHING = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8)
NAMES = ["tag", "price", "topics", "quality", "item_id", "age", "gender", "interests", "tab", "hour", "pctr", "colour"]
VALUES = st.dictionaries(st.sampled_from(NAMES), SCALAR | st.lists(SCALAR, max_size=3), max_size=3) | ANYTHING
ID = st.text(min_size=1, max_size=5) | SCALAR
OBJECT = {"user_id": ID, "item_id": ID, "features": VALUES, "action": SCALAR, "scene": SCALAR, "timestamp": st.integers(0, 2 * 10**12) | SCALAR}
ENTRY = st.fixed_dictionaries({}, optional=OBJECT) | ID | ANYTHING
FIELDS = {
    "user_id": ID,
    "candidates": st.lists(ENTRY, max_size=4) | ANYTHING,
    "scene": st.sampled_from(["home", "shop", None]) | SCALAR,
    "context": VALUES,
    "top_k": SCALAR,
    "timeout_ms": st.integers(1, 5000) | SCALAR,
    "fusion": st.fixed_dictionaries({"weights": VALUES}) | ANYTHING,
    "explain": st.booleans() | SCALAR,
    "request_id": TEXT | SCALAR,
    "events": st.lists(ENTRY, max_size=3) | ANYTHING,
    "users": st.lists(ENTRY, max_size=3) | ANYTHING,
    "items": st.lists(ENTRY, max_size=3) | ANYTHING,
    "stable": st.fixed_dictionaries({"name": TEXT, "version": TEXT}) | ANYTHING,
}
WANTED = {
    "/rank": ["user_id", "candidates", "scene", "context", "top_k", "timeout_ms", "fusion", "explain", "request_id"],
    "/events": ["events"],
    "/features/users": ["users"],
    "/features/items": ["items"],
    "/models/rollout": ["stable"],
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_body_makes_the_service_fail(server: Any, method: str, path: str) -> None:
    near = st.fixed_dictionaries({}, optional={name: FIELDS[name] for name in WANTED[path]})
    valid = st.fixed_dictionaries({name: FIELDS[name] for name in WANTED[path][:2]})

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=near | valid | ANYTHING)
    def send(body: Any) -> None:
        content = json.dumps(body).encode()
        answer = server.http.request(method, path, content=content, headers={"Authorization": "Bearer secret"})
        assert answer.status_code in (200, 400, 404, 409, 422), (content, answer.text)
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"]

    send()


@pytest.mark.parametrize(
    "content", [b"\x00", b"\xff" * 50, b'{"a":' * 5000, b"[" * 5000 + b"]" * 5000, b'{"user_id":"\\u0000","candidates":["\\u0000"]}']
)
def test_no_bytes_make_the_service_fail(server: Any, content: bytes) -> None:
    for method, path in ROUTES:
        answer = server.http.request(method, path, content=content, headers={"Authorization": "Bearer secret"})
        assert answer.status_code in (200, 400, 422)


def test_weights_of_ones_own_are_refused_where_the_operator_does_not_allow_them() -> None:
    request = RankRequest.model_validate({"user_id": "1", "candidates": ["1"], "fusion": {"weights": {"pctr": 1.0}}})
    with pytest.raises(InvalidRequest, match="FUNNELRANK_FUSION_OVERRIDES"):
        query_of(request, Settings())
    assert query_of(request, Settings(fusion_overrides=True)).weights == {"pctr": 1.0}
