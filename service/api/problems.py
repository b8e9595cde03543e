"""Maps errors to HTTP: status, title, headers, and the one envelope of all errors (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import orjson
from pydantic import BaseModel

from service import errors
from service.errors import ServiceError

# ruff: noqa: N818 - an error class has the name that the caller reads

PROBLEM_TYPE: Final = "application/problem+json"
ERRORS_SHOWN: Final = 20
_FIELD_CHARACTERS = 200
_TEXT_CHARACTERS = 2000


class HttpError(ServiceError):
    """An error that only HTTP has. `headers` are part of the answer."""

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.headers = dict(headers or {})


class InternalError(HttpError):
    code = "internal_error"


class MalformedJson(HttpError):
    code = "malformed_json"


class Unauthorized(HttpError):
    code = "unauthorized"


class Forbidden(HttpError):
    code = "forbidden"


class RateLimited(HttpError):
    code = "rate_limited"


class NotFound(HttpError):
    code = "not_found"


class MethodNotAllowed(HttpError):
    code = "method_not_allowed"


class RequestTooSlow(HttpError):
    code = "request_too_slow"


class BodyTooLarge(HttpError):
    code = "body_too_large"


class HeadTooLarge(HttpError):
    code = "head_too_large"


class MalformedHttp(HttpError):
    code = "malformed_http"


class UnknownTransferCoding(HttpError):
    code = "unknown_transfer_coding"


class FrameworkError(HttpError):
    """An error of the web framework that has no class of its own here."""

    code = "http_error"

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers=headers)
        self.status = status


@dataclass(frozen=True)
class Presentation:
    """The HTTP status and title of a class of errors."""

    status: int
    title: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_RETRY = MappingProxyType({"Retry-After": "1"})
PROBLEMS: Final[Mapping[type[ServiceError], Presentation]] = {
    MalformedHttp: Presentation(400, "This is not an HTTP/1.1 request"),
    MalformedJson: Presentation(400, "The body is not JSON"),
    Unauthorized: Presentation(401, "A key or the operators' token is needed"),
    Forbidden: Presentation(403, "This call is not allowed here, or to this caller"),
    NotFound: Presentation(404, "Not found"),
    errors.UnknownModel: Presentation(404, "No such model version"),
    MethodNotAllowed: Presentation(405, "Method not allowed"),
    RequestTooSlow: Presentation(408, "The request did not arrive in time"),
    errors.Conflict: Presentation(409, "The state has changed"),
    BodyTooLarge: Presentation(413, "The body is too large"),
    errors.InvalidRequest: Presentation(422, "The request is not valid"),
    errors.Unusable: Presentation(422, "That model version cannot be used"),
    RateLimited: Presentation(429, "The caller's rate is exceeded"),
    HeadTooLarge: Presentation(431, "The request line and headers are too large"),
    UnknownTransferCoding: Presentation(501, "The transfer coding is not implemented"),
    errors.NotReady: Presentation(503, "Not ready", _RETRY),
    errors.Overloaded: Presentation(503, "Too much work at once", _RETRY),
    errors.StoreUnavailable: Presentation(503, "The feature store cannot be reached", _RETRY),
    errors.RegistryUnavailable: Presentation(503, "The registry cannot be written", _RETRY),
    errors.DeadlineExceeded: Presentation(504, "The deadline has passed"),
}
_INTERNAL = Presentation(500, "Internal error")


def presentation_of(error: ServiceError) -> Presentation:
    """Return status, title and headers of an error. An unknown class of error counts as an internal error of the
    service.
    """
    if isinstance(error, FrameworkError):
        return Presentation(error.status, "The request was refused", error.headers)
    known = (PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    described = next(known, _INTERNAL)
    headers = error.headers if isinstance(error, HttpError) else {}
    return Presentation(described.status, described.title, {**described.headers, **headers})


def envelope(error: ServiceError, request_id: str) -> bytes:
    """Return the problem document as JSON. Long texts are cut, because they may repeat what the caller sent."""
    described = presentation_of(error)
    body: dict[str, object] = {
        "type": f"urn:funnelrank:problem:{error.code}",
        "title": described.title,
        "status": described.status,
        "detail": _cut(error.detail, _TEXT_CHARACTERS),
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        body["errors"] = [
            {"field": _cut(e.field, _FIELD_CHARACTERS), "message": _cut(e.message, _TEXT_CHARACTERS)}
            for e in error.errors[:ERRORS_SHOWN]
        ]
    return orjson.dumps(body)


def _cut(text: str, length: int) -> str:
    """Return `text`, or its beginning with a mark that it was cut."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


class BadField(BaseModel):
    """One bad field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """The body of every error response (RFC 9457, problem details)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[BadField] = []
