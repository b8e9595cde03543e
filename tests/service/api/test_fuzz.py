"""Tests bodies that fit the live model except for one value: none of them makes the service fail.

`test_openapi.py` fuzzes every route from its schema, which does not know the model's features.
"""

import collections
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.routes.rank import query_of
from service.api.routes.rank_bodies import RankRequest
from service.errors import InvalidRequest
from service.settings import Settings

ROUTES = [
    ("POST", "/rank"),
    ("POST", "/events"),
    ("POST", "/impressions"),
    ("PUT", "/features/users"),
    ("PUT", "/features/items"),
]
TEXT = st.text(max_size=8)
SCALAR = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | TEXT
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)
ID = st.text(min_size=1, max_size=5)
LIST = st.lists(TEXT | st.integers(-5, 5), max_size=4)
ITEM = st.fixed_dictionaries(
    {},
    optional={"tag": TEXT, "topics": LIST, "price": st.floats(-1e30, 1e30) | st.none(), "quality": st.integers(-9, 9)},
)
USER = st.fixed_dictionaries({}, optional={"gender": TEXT, "interests": LIST, "age": st.integers(0, 120) | st.none()})
CONTEXT = st.fixed_dictionaries({}, optional={"tab": st.integers(0, 9) | TEXT, "hour": st.floats(0, 23)})
WEIGHTS = st.dictionaries(st.sampled_from(["pctr", "pcvr", "pctcvr"]), st.floats(-1e6, 1e6), min_size=1)
CANDIDATE = ID | st.fixed_dictionaries({"item_id": ID}, optional={"features": ITEM, "source": ID})
EVENT = {
    "user_id": ID,
    "item_id": ID,
    "action": TEXT | st.integers(0, 9),
    "timestamp": st.integers(10**11, 17 * 10**11),
}
BEHAVIOUR = {name: value for name, value in EVENT.items() if name != "user_id"}
SEEN_ITEM = st.fixed_dictionaries({"item_id": ID, "position": st.integers(1, 9)})
RANK_OPTIONS = {
    "user_features": USER,
    "behaviours": st.lists(st.fixed_dictionaries(BEHAVIOUR, optional={"scene": TEXT}), max_size=3),
    "scene": st.sampled_from(["home", "shop"]),
    "context": CONTEXT,
    "top_k": st.integers(1, 9),
    "timeout_ms": st.integers(2000, 9000),
    "fusion": st.fixed_dictionaries({"weights": WEIGHTS}),
    "explain": st.booleans(),
}


def id_of(candidate: Any) -> Any:
    return candidate["item_id"] if isinstance(candidate, dict) else candidate


def batch(name: str, entry: dict[str, Any], **optional: Any) -> Any:
    return st.fixed_dictionaries(
        {name: st.lists(st.fixed_dictionaries(entry, optional=optional), min_size=1, max_size=4)}
    )


GOOD: dict[str, Any] = {
    "/rank": st.fixed_dictionaries(
        {"user_id": ID, "candidates": st.lists(CANDIDATE, min_size=1, max_size=5, unique_by=id_of)},
        optional=RANK_OPTIONS,
    ),
    "/events": batch("events", EVENT, scene=TEXT, event_id=ID),
    "/impressions": batch(
        "impressions",
        {
            "request_id": st.sampled_from(["r-1", "r-2"]),
            "items": st.lists(SEEN_ITEM, min_size=1, max_size=3),
            "timestamp": st.integers(10**11, 17 * 10**11),
        },
        impression_id=ID,
    ),
    "/features/users": batch("users", {"user_id": ID, "features": USER}),
    "/features/items": batch("items", {"item_id": ID, "features": ITEM}),
}


def places(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a body."""
    inner = list(body.items()) if isinstance(body, dict) else list(enumerate(body)) if isinstance(body, list) else []
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


def with_other(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """`body` with one value replaced."""
    if not path:
        return value
    changed = copy.copy(body)
    changed[path[0]] = with_other(body[path[0]], path[1:], value)
    return changed


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_body_makes_the_service_fail(server: Any, method: str, path: str) -> None:
    seen: collections.Counter[int] = collections.Counter()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=GOOD[path], spoil=st.booleans(), other=ANYTHING, data=st.data())
    def send(body: Any, spoil: bool, other: Any, data: st.DataObject) -> None:
        if spoil:
            body = with_other(body, data.draw(st.sampled_from(places(body))), other)
        answer = server.http.request(
            method, path, content=json.dumps(body).encode(), headers={"Authorization": "Bearer secret"}
        )
        seen[answer.status_code] += 1
        assert answer.status_code in (200, 400, 404, 409, 422), (body, answer.text)
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"]
        elif path == "/rank":
            check_ranking(body, answer.json())

    send()
    assert seen[200] >= 5, f"hardly a body was good: {seen}"
    assert seen[422] >= 5, f"hardly a body was bad: {seen}"


def check_ranking(body: Any, answer: Any) -> None:
    ids = [id_of(c) for c in body["candidates"]]
    assert {e["item_id"] for e in answer["ranking"]} <= set(ids)
    assert len(answer["ranking"]) == min(len(ids), body.get("top_k") or len(ids))
    scores = [e["score"] for e in answer["ranking"]]
    scored = [s for s in scores if s is not None]
    assert scores == sorted(scored, reverse=True) + [None] * (len(scores) - len(scored))


@pytest.mark.parametrize(
    "content",
    [
        b"\x00",
        b"\xff" * 50,
        b'{"a":' * 5000,
        b"[" * 5000 + b"]" * 5000,
        b'{"user_id":"\\u0000","candidates":["\\u0000"]}',
    ],
)
def test_no_bytes_make_the_service_fail(server: Any, content: bytes) -> None:
    for method, path in ROUTES:
        answer = server.http.request(method, path, content=content, headers={"Authorization": "Bearer secret"})
        assert answer.status_code in (200, 400, 422)


def test_weights_of_ones_own_are_refused_where_the_operator_does_not_allow_them() -> None:
    request = RankRequest.model_validate({"user_id": "1", "candidates": ["1"], "fusion": {"weights": {"pctr": 1.0}}})
    with pytest.raises(InvalidRequest, match="FUNNELRANK_FUSION_OVERRIDES"):
        query_of(request, Settings())
    assert query_of(request, Settings(fusion_overrides=True))[0].options.weights == {"pctr": 1.0}
