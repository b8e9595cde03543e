"""Owns the errors a caller can meet, and the one envelope (RFC 9457, `application/problem+json`) that all of them are sent in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

# ruff: noqa: N818 - the names say what the caller is told

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True)
class FieldError:
    """One bad field of a request, e.g. `candidates[3].features.age`."""

    field: str
    message: str


class ServiceError(Exception):
    """An answer other than success. `code` is stable and for programs, `detail` is for people."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class InternalError(ServiceError):
    pass


class MalformedJson(ServiceError):
    status, code, title = 400, "malformed_json", "The body is not JSON"


class Unauthorized(ServiceError):
    status, code, title = 401, "unauthorized", "The operators' token is needed"


class Forbidden(ServiceError):
    status, code, title = 403, "forbidden", "Operators' calls are not allowed here"


class NotFound(ServiceError):
    status, code, title = 404, "not_found", "Not found"


class UnknownModel(ServiceError):
    status, code, title = 404, "unknown_model", "No such model version"


class MethodNotAllowed(ServiceError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class RequestTooSlow(ServiceError):
    status, code, title = 408, "request_too_slow", "The request did not arrive in time"


class Conflict(ServiceError):
    status, code, title = 409, "conflict", "The state has changed"


class BodyTooLarge(ServiceError):
    status, code, title = 413, "body_too_large", "The body is too large"


class HeadTooLarge(ServiceError):
    status, code, title = 431, "head_too_large", "The request line and headers are too large"


class InvalidRequest(ServiceError):
    """The body is JSON and says something that is not allowed."""

    status, code, title = 422, "invalid_request", "The request is not valid"


class Unusable(ServiceError):
    """A bundle that cannot be rolled out."""

    status, code, title = 422, "unusable_model", "That model version cannot be used"


class NotReady(ServiceError):
    status, code, title = 503, "not_ready", "Not ready"

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})
        if code:
            self.code = code


class Overloaded(ServiceError):
    status, code, title = 503, "overloaded", "Too much work at once"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class StoreUnavailable(ServiceError):
    status, code, title = 503, "store_unavailable", "The feature store cannot be reached"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class RegistryUnavailable(ServiceError):
    status, code, title = 503, "registry_unavailable", "The registry cannot be written"

    def __init__(self, document: str, error: OSError) -> None:
        super().__init__(f"{document} cannot be written: {error.strerror}; what is live stays live", headers={"Retry-After": "1"})


class DeadlineExceeded(ServiceError):
    status, code, title = 504, "deadline_exceeded", "The deadline has passed"


def invalid(field: str, message: str) -> InvalidRequest:
    """An InvalidRequest of one field."""
    return InvalidRequest(f"{field}: {message}", errors=[FieldError(field, message)])


def problem(error: ServiceError, request_id: str) -> bytes:
    """The envelope as JSON."""
    body: dict[str, object] = {
        "type": f"urn:funnelrank:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        body["errors"] = [{"field": e.field, "message": e.message} for e in error.errors]
    return orjson.dumps(body)
