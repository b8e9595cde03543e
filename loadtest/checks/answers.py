"""Checks an answer of POST /rank: anything but a complete, ordered, finite ranking is a failure."""

import math
from dataclasses import dataclass
from typing import Any

import orjson

# Reasons that the request itself causes: an id that was not loaded, a missing context or feature.
OWN_DOING = ("unknown_", "missing_")


@dataclass(frozen=True)
class Judgement:
    """The verdict on one answer. `fault` is None if it is right; `model` is "name/version"."""

    fault: str | None
    model: str = ""
    degraded: tuple[str, ...] = ()


def judge(status: int, content: bytes | None, request: dict[str, Any], allow_degraded: bool = False) -> Judgement:
    """Checks one answer against its request: complete, in order, with finite scores and a model version."""
    if status == 0:
        return Judgement("no answer")
    try:
        body = orjson.loads(content or b"")
    except orjson.JSONDecodeError:
        return Judgement(f"HTTP {status}, body is not JSON")
    if status != 200:
        return Judgement(f"HTTP {status} {body.get('code', '') if isinstance(body, dict) else ''}".rstrip())
    try:
        model = f"{body['model']['name']}/{body['model']['version']}"
        degraded = tuple(reason.split(":")[0] for reason in body["degraded"])
        fault = _fault_in(body["ranking"], request) or _fault_in_model(body["model"])
    except (KeyError, TypeError, AttributeError) as error:
        return Judgement(f"malformed answer: {type(error).__name__} {error}")
    serious = [reason for reason in degraded if not reason.startswith(OWN_DOING)]
    if serious and not allow_degraded:
        fault = fault or f"degraded: {serious[0]}"
    return Judgement(fault, model, degraded)


def _fault_in(ranking: list[dict[str, Any]], request: dict[str, Any]) -> str | None:
    candidates = request["candidates"]
    top_k = request.get("top_k")
    expected = min(len(candidates), top_k or len(candidates))
    if len(ranking) != expected:
        return f"ranking of {len(ranking)} items, {expected} expected"
    ids = {entry["item_id"] for entry in ranking}
    if len(ids) != expected or not ids.issubset(candidates):
        return "ranked ids are not the candidates"
    if [entry["rank"] for entry in ranking] != list(range(1, expected + 1)):
        return "ranks do not count from 1"
    scores = [entry["score"] for entry in ranking]
    if not all(math.isfinite(score) for score in scores):
        return "a score is not finite"
    if any(first < second for first, second in zip(scores, scores[1:], strict=False)):
        return "scores do not descend"
    return None


def _fault_in_model(model: dict[str, Any]) -> str | None:
    return None if model["name"] and model["version"] else "no model version"
