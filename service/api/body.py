"""Owns the way from a request's bytes to a checked model: the byte limit first, then JSON, then the fields."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from service.api.problems import BodyTooLarge, MalformedJson
from service.errors import FieldError, InvalidRequest

Model = TypeVar("Model", bound=BaseModel)
_ERRORS_SHOWN = 20
_ERRORS_LOOKED_AT = 200  # of a body made of nothing else there can be as many as it has bytes
_CANDIDATE = 'a candidate is a non-empty string of at most 256 characters, or {"item_id": ..., "features": {...}}'


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, read no further than `limit` bytes. Raises BodyTooLarge or ClientDisconnect."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        return body
    return await _read_on(message, receive, limit)


async def _read_on(message: Any, receive: Receive, limit: int) -> bytes:
    parts = []
    size = 0
    while message["type"] == "http.request":
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise ClientDisconnect


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {limit} bytes (FUNNELRANK_MAX_BODY_BYTES)")


def parse(model: type[Model], body: bytes) -> Model:
    """A checked body. Raises MalformedJson where it is no JSON, InvalidRequest that names each bad field otherwise."""
    try:
        return model.model_validate_json(
            body, strict=True
        )  # "5" and true are no numbers, whatever pydantic would make of them
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        raise MalformedJson(details[0]["msg"])
    found = bad_fields(details[:_ERRORS_LOOKED_AT])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise InvalidRequest(f"{found[0].field}: {found[0].message}{more}", errors=found[:_ERRORS_SHOWN])


def parse_or_empty(model: type[Model], body: bytes) -> Model:
    """As `parse`; no body at all is one that names nothing."""
    return parse(model, body.strip() or b"{}")


def bad_fields(details: Sequence[ErrorDetails]) -> list[FieldError]:
    """pydantic's errors in the words of the API: `candidates[3].item_id`, once per field."""
    found: dict[str, FieldError] = {}
    for detail in details:
        location = detail["loc"]
        message = detail["msg"]
        if location[:1] == ("candidates",) and len(location) > 2:
            of_object = location[2] == "Candidate" and len(location) > 3
            location, message = (location[:2] + location[3:], message) if of_object else (location[:2], _CANDIDATE)
            if not of_object and any(f.startswith(path_of(location) + ".") for f in found):
                continue
        if location[:1] == ("events",) and len(location) > 3:
            location = location[:3]
            message = "a string or an integer"
        path = path_of(location)
        found.setdefault(path, FieldError(path, message))
    return without_parents(list(found.values()))


def without_parents(errors: list[FieldError]) -> list[FieldError]:
    """Leave out what a more exact entry says already: `candidates[3]` beside `candidates[3].item_id`."""
    return [e for e in errors if not any(o.field.startswith(f"{e.field}.") for o in errors)]


def path_of(location: Sequence[str | int]) -> str:
    """`("items", 3, "features")` -> `items[3].features`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
