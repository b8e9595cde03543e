"""Tests the Python client with a real service, and compares it with `/openapi.json`: routes, fields and statuses."""

import inspect
from typing import Any, get_type_hints

import pytest
from funnelrank_client import BadRequest, Candidate, Client, Event, Impression, NotAllowed, RankedItem, Ranking
from funnelrank_client.aio import AsyncClient
from funnelrank_client.errors import BadField, ProblemError, error_of
from funnelrank_client.requests import RankOptions

CALLS = {
    "POST /rank": "rank",
    "POST /events": "send_events",
    "POST /impressions": "send_impressions",
    "PUT /features/users": "put_user_features",
    "PUT /features/items": "put_item_features",
    "GET /fusion": "get_fusion",
    "PUT /fusion": "put_fusion",
    "POST /fusion/rollback": "roll_back_fusion",
    "GET /rules": "get_rules",
    "PUT /rules": "put_rules",
    "POST /rules/rollback": "roll_back_rules",
    "POST /fusion/preview": "preview_fusion",
    "POST /rules/preview": "preview_rules",
    "POST /rank/preview": "preview_ranking",
    "GET /callers": "get_callers",
    "GET /quality": "get_quality",
    "GET /models": "get_models",
    "GET /models/{name}/{version}": "get_model",
    "PUT /models/rollout": "put_rollout",
    "POST /models/rollback": "roll_back_models",
    "GET /stats": "get_stats",
    "GET /store/users/{user_id}": "get_stored_user",
    "GET /store/items/{item_id}": "get_stored_item",
    "GET /livez": "is_live",
    "GET /readyz": "is_ready",
    "GET /metrics": "get_metrics",
}


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    """The OpenAPI document of the running service."""
    openapi: dict[str, Any] = server.http.get("/openapi.json").json()
    return openapi


def fields(document: dict[str, Any], schema: str) -> set[str]:
    return set(document["components"]["schemas"][schema]["properties"])


def test_every_route_has_a_call(document: dict[str, Any]) -> None:
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert routes == set(CALLS)
    for kind in (Client, AsyncClient):
        assert set(CALLS.values()) <= {name for name, _ in inspect.getmembers(kind, inspect.isfunction)}


def test_every_field_of_a_request_can_be_given(document: dict[str, Any]) -> None:
    named = {"user_id", "candidates", "timeout_ms", "request_id"}
    assert fields(document, "RankRequest") <= named | set(get_type_hints(RankOptions))
    assert fields(document, "Candidate") <= set(get_type_hints(Candidate))
    assert fields(document, "Event") <= set(get_type_hints(Event))
    assert fields(document, "Impression") - {"items"} <= set(get_type_hints(Impression))  # `positions` gives these
    rollback = set(inspect.signature(Client.roll_back_fusion).parameters)
    assert fields(document, "RollbackRequest") <= rollback
    assert fields(document, "ModelsRollbackRequest") <= set(inspect.signature(Client.roll_back_models).parameters)


def test_every_field_of_an_answer_can_be_read(document: dict[str, Any]) -> None:
    ranking = set(dir(Ranking)) | set(get_type_hints(Ranking)) | {"ranking"}  # `items` is the standard word for these
    assert fields(document, "RankResponse") <= ranking
    assert fields(document, "Prediction") <= set(dir(RankedItem))
    assert fields(document, "BadField") <= set(get_type_hints(BadField))
    problem = set(inspect.signature(ProblemError).parameters) | {"type", "title"}  # said by the class and `code`
    assert fields(document, "Problem") <= problem


def test_every_status_of_an_error_has_a_type_of_its_own(document: dict[str, Any]) -> None:
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    statuses = {int(status) for operation in operations for status in operation["responses"] if status[0] in "45"}
    assert statuses >= {400, 422, 503, 504}
    for status in statuses:
        assert type(error_of(status, {}, b"{}")) is not ProblemError, status


def test_a_ranking_of_the_service(server: Any) -> None:
    with Client(server.url, timeout_ms=10_000) as client:
        ranking = client.rank("1", ["1", Candidate("2")], explain=True, context={"tab": None, "hour": None})
        assert sorted(ranking.item_ids) == ["1", "2"]
        assert (ranking.coverage.requested, ranking.model is not None) == (2, True)
        assert ranking.items[0].explain
        assert client.is_live()
        assert client.get_models()["workers"]
        assert "funnelrank_requests_total" in client.get_metrics()
        with pytest.raises(BadRequest) as refused:
            client.rank("1", [])
        assert refused.value.errors[0].field == "candidates"
        with pytest.raises(NotAllowed):
            client.put_fusion({"profiles": {}})


async def test_a_ranking_and_an_event_of_the_asynchronous_client(server: Any) -> None:
    async with AsyncClient(server.url, timeout_ms=10_000) as client:
        ranking = await client.rank("1", ["1"], request_id="of-the-client")
        assert ranking.request_id == "of-the-client"
        event = Event("client-user", "1", "click")
        for new in (1, 0):
            assert await client.send_events([event]) == {"accepted": 1, "new": new}
