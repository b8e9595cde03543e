"""Owns the OpenAPI document. Bodies are read raw and answers built as plain dicts for speed, so what an operation reads, answers and refuses stands
here, in one table; the fuzzing of every route from this document finds whatever is not true.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service import errors
from service.api import problems
from service.api import requests as contract
from service.api import responses as shown
from service.api.problems import PROBLEM_TYPE, PROBLEMS
from service.errors import ServiceError
from service.fusion.document import FusionDocument
from service.rollout.rollout import Rollout

Errors = tuple[type[ServiceError], ...]
_BODY: Errors = (problems.MalformedJson, problems.BodyTooLarge, errors.InvalidRequest)
_OPERATOR: Errors = (problems.Unauthorized, problems.Forbidden)
_WORK: Errors = (errors.NotReady, errors.Overloaded)


@dataclass(frozen=True)
class Operation:
    """What an operation reads, answers (text where no model is named) and refuses. `operators`: it wants the token."""

    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    refuses: Errors = ()
    operators: bool = False
    body_required: bool = True

    @property
    def errors(self) -> Errors:
        return self.refuses + (_BODY if self.body else ()) + (_OPERATOR if self.operators else ())


_WRITES: Errors = (*_WORK, errors.StoreUnavailable)
_CHANGES: Errors = (errors.Conflict, errors.RegistryUnavailable)
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/rank"): Operation(contract.RankResponse, contract.RankRequest, (*_WORK, errors.DeadlineExceeded)),
    ("post", "/events"): Operation(shown.EventsAnswer, contract.EventsRequest, (*_WRITES, errors.Conflict)),
    ("put", "/features/users"): Operation(shown.Written, contract.UsersRequest, _WRITES, operators=True),
    ("put", "/features/items"): Operation(shown.Written, contract.ItemsRequest, _WRITES, operators=True),
    ("get", "/fusion"): Operation(shown.FusionShown, refuses=(errors.NotReady,)),
    ("put", "/fusion"): Operation(FusionDocument, contract.FusionRequest, (*_CHANGES, errors.NotReady), operators=True),
    ("post", "/fusion/rollback"): Operation(
        FusionDocument, contract.RollbackRequest, _CHANGES, operators=True, body_required=False
    ),
    ("get", "/models"): Operation(shown.ModelsShown),
    ("put", "/models/rollout"): Operation(
        Rollout, contract.RolloutRequest, (*_CHANGES, errors.UnknownModel, errors.Unusable), operators=True
    ),
    ("post", "/models/rollback"): Operation(
        Rollout, contract.RollbackRequest, _CHANGES, operators=True, body_required=False
    ),
    ("get", "/livez"): Operation(shown.Alive),
    ("get", "/readyz"): Operation(shown.Readiness, refuses=(errors.NotReady,)),
    ("get", "/metrics"): Operation(None),
}
_REF = "#/components/schemas/{model}"
_MODELS = {m for o in OPERATIONS.values() for m in (o.answer, o.body) if m} | {contract.Problem}


def describe(app: FastAPI, max_candidates: int) -> dict[str, Any]:
    """The whole document. Raises KeyError for a route that the table lacks."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    ranking = {"post": {"summary": "Rank candidates for a user", "operationId": "rank", "tags": ["rank"]}}
    document["paths"] = {"/rank": ranking} | document["paths"]
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            described.update(_described(OPERATIONS[method, path]))
    document["components"] = {
        "schemas": _schemas(max_candidates),
        "securitySchemes": {"operator": {"type": "http", "scheme": "bearer", "description": "FUNNELRANK_ADMIN_TOKEN"}},
    }
    return document


def _described(operation: Operation) -> dict[str, Any]:
    """The part of an operation that the framework cannot know."""
    described: dict[str, Any] = {
        "responses": {"200": {"description": "Done", "content": _answer(operation)}} | _problems(operation.errors)
    }
    if operation.answer is shown.Readiness:
        described["responses"]["503"]["content"] |= _answer(operation)
    if operation.body:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": _schema(operation.body)}},
        }
    if operation.operators:
        described["security"] = [{"operator": []}]
    return described


def _answer(operation: Operation) -> dict[str, Any]:
    return (
        {"application/json": {"schema": _schema(operation.answer)}}
        if operation.answer
        else {"text/plain": {"schema": {"type": "string"}}}
    )


def _problems(refused: Iterable[type[ServiceError]]) -> dict[str, Any]:
    """By status, every code that an operation may refuse with."""
    codes: dict[int, list[str]] = {}
    for error in refused:
        presentation = PROBLEMS[error]
        codes.setdefault(presentation.status, []).append(f"`{error.code}`: {presentation.title}")
    content = {PROBLEM_TYPE: {"schema": _schema(contract.Problem)}}
    return {
        str(status): {"description": "; ".join(codes[status]), "content": dict(content)} for status in sorted(codes)
    }


def _schema(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas(max_candidates: int) -> dict[str, Any]:
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (m, "validation") for m in sorted(_MODELS, key=lambda m: m.__name__)
    ]
    schemas: dict[str, Any] = models_json_schema(inputs, ref_template=_REF)[1]["$defs"]
    schemas["RankRequest"]["properties"]["candidates"]["maxItems"] = max_candidates
    return schemas
