"""Tests the check of answers: which answers of POST /rank count as right."""

from typing import Any

import orjson
import pytest

from loadtest.checks.answers import judge

REQUEST = {"user_id": "7", "candidates": ["a", "b", "c"]}


def answer(**changes: Any) -> dict[str, Any]:
    ranking = [
        {"item_id": item, "rank": place, "score": score}
        for place, (item, score) in enumerate([("b", 0.5), ("a", 0.5), ("c", 0.1)], 1)
    ]
    return {
        "model": {"name": "m", "version": "3", "role": "stable"},
        "degraded": ["unknown_items:3"],
        "ranking": ranking,
    } | changes


def test_a_complete_descending_ranking_is_right() -> None:
    verdict = judge(200, orjson.dumps(answer()), REQUEST)
    assert (verdict.fault, verdict.model, verdict.degraded) == (None, "m/3", ("unknown_items",))


def test_top_k_shortens_what_is_expected() -> None:
    shortened = answer(ranking=answer()["ranking"][:2])
    assert judge(200, orjson.dumps(shortened), {**REQUEST, "top_k": 2}).fault is None
    assert judge(200, orjson.dumps(answer()), {**REQUEST, "top_k": 2}).fault == "ranking of 3 items, 2 expected"


@pytest.mark.parametrize(
    ("place", "field", "value", "fault"),
    [
        (0, "score", 0.2, "scores do not descend"),
        (0, "score", None, "malformed answer: TypeError must be real number, not NoneType"),
        (1, "item_id", "b", "ranked ids are not the candidates"),
        (1, "item_id", "z", "ranked ids are not the candidates"),
        (2, "rank", 4, "ranks do not count from 1"),
    ],
)
def test_one_wrong_entry_is_enough(place: int, field: str, value: object, fault: str) -> None:
    body = answer()
    body["ranking"][place][field] = value
    assert judge(200, orjson.dumps(body), REQUEST).fault == fault


@pytest.mark.parametrize(
    ("status", "content", "fault"),
    [
        (0, b"", "no answer"),
        (200, b"<html>", "HTTP 200, body is not JSON"),
        (200, None, "HTTP 200, body is not JSON"),
        (200, b"[]", "malformed answer: TypeError list indices must be integers or slices, not str"),
        (200, orjson.dumps(answer(model={"name": "m"})), "malformed answer: KeyError 'version'"),
        (200, orjson.dumps(answer(model={"name": "m", "version": ""})), "no model version"),
        (200, orjson.dumps(answer(ranking=[])), "ranking of 0 items, 3 expected"),
        (503, b'{"code": "overloaded"}', "HTTP 503 overloaded"),
        (502, b"[]", "HTTP 502"),
    ],
)
def test_anything_else_is_a_failure_with_its_reason(status: int, content: bytes | None, fault: str) -> None:
    assert judge(status, content, REQUEST).fault == fault


def test_degraded_answers_are_failures_unless_only_ids_were_unknown() -> None:
    content = orjson.dumps(answer(degraded=["unknown_user", "store_unavailable"]))
    assert judge(200, content, REQUEST).fault == "degraded: store_unavailable"
    assert judge(200, content, REQUEST, allow_degraded=True).fault is None
