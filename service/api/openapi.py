"""Writes the OpenAPI document: FastAPI's document, completed by the bodies that the routes read themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service import errors
from service.api import problems
from service.api.access.caller_keys import needed_role
from service.api.body import JsonBody
from service.api.problems import PROBLEM_TYPE, PROBLEMS, Problem
from service.errors import ServiceError

Errors = tuple[type[ServiceError], ...]
BODY: Errors = (problems.MalformedJson, problems.BodyTooLarge, errors.InvalidRequest)
OPERATOR: Errors = (problems.Unauthorized, problems.Forbidden)
CALLER: Errors = (*OPERATOR, problems.RateLimited, errors.NotReady)
WORK: Errors = (errors.NotReady, errors.Overloaded)
CHANGE: Errors = (errors.Conflict, errors.RegistryUnavailable)
_REFERENCE = "#/components/schemas/{model}"


def refuses(*refused: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Build `responses=` of a route: by status, every error code that the route may answer with."""
    codes: dict[int, list[str]] = {}
    for error in refused:
        presentation = PROBLEMS[error]
        codes.setdefault(presentation.status, []).append(f"`{error.code}`: {presentation.title}")
    content = {PROBLEM_TYPE: {"schema": reference(Problem)}}
    return {status: {"description": "; ".join(codes[status]), "content": dict(content)} for status in sorted(codes)}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the whole OpenAPI document."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    bodies: set[type[BaseModel]] = {Problem}
    for route in app.routes:
        body = _body_of(route)
        if body is None or not isinstance(route, APIRoute):
            continue
        bodies.add(body.model)
        for method in route.methods or ():
            document["paths"][route.path][method.lower()]["requestBody"] = {
                "required": body.required,
                "content": {"application/json": {"schema": reference(body.model)}},
            }
    _describe_keys(document)
    schemas = document["components"]["schemas"]
    schemas.update(_schemas(bodies))
    settings = app.state.services.settings
    schemas["RankRequest"]["properties"]["candidates"]["maxItems"] = settings.max_candidates
    return document


def _describe_keys(document: dict[str, Any]) -> None:
    """Add the callers' keys to every route that needs one where there is a callers document."""
    scheme = {"type": "http", "scheme": "bearer", "description": "a caller's key, where there is a callers document"}
    document["components"].setdefault("securitySchemes", {})["caller"] = scheme
    refusals = {str(status): answer for status, answer in refuses(*CALLER).items()}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            role = needed_role(method.upper(), path, metrics_are_open=False)
            if role is None:
                continue
            operation["responses"] = {**refusals, **operation["responses"]}
            operation["description"] = f"{operation.get('description', '')}\n\nRole: `{role}`.".strip()
            # Without a callers document no key is needed; operators' routes always need one, or the token.
            operation.setdefault("security", [{}, {"caller": []}])


def reference(model: type[BaseModel]) -> dict[str, str]:
    """A JSON schema that points to a model of the document."""
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _body_of(route: object) -> JsonBody[Any] | None:
    """Return the body model of a route, which is one of the route's dependencies."""
    if not isinstance(route, APIRoute) or not route.include_in_schema:
        return None
    calls = (dependency.call for dependency in route.dependant.dependencies)
    return next((call for call in calls if isinstance(call, JsonBody)), None)


def _schemas(models: set[type[BaseModel]]) -> dict[str, Any]:
    ordered = sorted(models, key=lambda model: model.__name__)
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in ordered]
    schemas: dict[str, Any] = models_json_schema(inputs, ref_template=_REFERENCE)[1]["$defs"]
    return schemas
