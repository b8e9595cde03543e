"""Owns the OpenAPI document: bodies are read raw for speed, so their schemas are added to it from the pydantic models."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.contract import (
    EventsRequest,
    FusionRequest,
    ItemsRequest,
    Problem,
    RankRequest,
    RankResponse,
    RollbackRequest,
    RolloutRequest,
    UsersRequest,
)

_REF = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (RankRequest, EventsRequest, UsersRequest, ItemsRequest, RolloutRequest, RollbackRequest, FusionRequest)
_ANSWERS: tuple[type[BaseModel], ...] = (RankResponse, Problem)
_OPERATOR = frozenset({"/models/rollback", "/fusion/rollback"})


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The request body of an operation that reads it itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}}}


def _rank_operation() -> dict[str, Any]:
    answer = {"description": "The ranking", "content": {"application/json": {"schema": {"$ref": _REF.format(model="RankResponse")}}}}
    return {"summary": "Rank candidates for a user", "operationId": "rank", "tags": ["rank"], "responses": {"200": answer}} | body_of(RankRequest)


def describe(app: FastAPI, max_candidates: int) -> dict[str, Any]:
    """The whole document; FastAPI's own 422 gives way to the problem that every error is."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    inputs = [(m, "validation") for m in _MODELS] + [(m, "serialization") for m in _ANSWERS]
    _, definitions = models_json_schema(inputs, ref_template=_REF)  # type: ignore[arg-type]
    components = document.setdefault("components", {})
    components["schemas"] = definitions["$defs"]
    components["schemas"]["RankRequest"]["properties"]["candidates"]["maxItems"] = max_candidates
    components["securitySchemes"] = {"operator": {"type": "http", "scheme": "bearer", "description": "FUNNELRANK_ADMIN_TOKEN"}}
    document["paths"] = {"/rank": {"post": _rank_operation()}} | document["paths"]
    problem = {"description": "Any error", "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            if method == "put" or path in _OPERATOR:
                operation["security"] = [{"operator": []}]
    return document
