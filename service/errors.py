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

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class InternalError(ServiceError):
    pass


class MalformedJson(ServiceError):
    status = 400
    code = "malformed_json"
    title = "The body is not JSON"


class Unauthorized(ServiceError):
    status = 401
    code = "unauthorized"
    title = "The operators' token is needed"


class Forbidden(ServiceError):
    status = 403
    code = "forbidden"
    title = "Operators' calls are not allowed here"


class NotFound(ServiceError):
    status = 404
    code = "not_found"
    title = "Not found"


class UnknownModel(ServiceError):
    status = 404
    code = "unknown_model"
    title = "No such model version"


class MethodNotAllowed(ServiceError):
    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class RequestTooSlow(ServiceError):
    status = 408
    code = "request_too_slow"
    title = "The request did not arrive in time"


class Conflict(ServiceError):
    status = 409
    code = "conflict"
    title = "The state has changed"


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"
    title = "The body is too large"


class HeadTooLarge(ServiceError):
    status = 431
    code = "head_too_large"
    title = "The request line and headers are too large"


class InvalidRequest(ServiceError):
    """The body is JSON and says something that is not allowed."""

    status = 422
    code = "invalid_request"
    title = "The request is not valid"


class Unusable(ServiceError):
    """A bundle that cannot be rolled out."""

    status = 422
    code = "unusable_model"
    title = "That model version cannot be used"


class NotReady(ServiceError):
    status = 503
    code = "not_ready"
    title = "Not ready"

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})
        if code:
            self.code = code


class Overloaded(ServiceError):
    status = 503
    code = "overloaded"
    title = "Too much work at once"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class StoreUnavailable(ServiceError):
    status = 503
    code = "store_unavailable"
    title = "The feature store cannot be reached"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class RegistryUnavailable(ServiceError):
    status = 503
    code = "registry_unavailable"
    title = "The registry cannot be written"

    def __init__(self, document: str, error: OSError) -> None:
        super().__init__(
            f"{document} cannot be written: {error.strerror}; what is live stays live", headers={"Retry-After": "1"}
        )


class DeadlineExceeded(ServiceError):
    status = 504
    code = "deadline_exceeded"
    title = "The deadline has passed"


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
