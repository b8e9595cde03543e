"""Defines the errors of the service.

They do not depend on a transport: `service.api.problems` maps them to HTTP, the command line to exit codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from features.model_types import keys_at
from features.nearest import nearest

# ruff: noqa: N818 - an error class has the name that the caller reads


@dataclass(frozen=True)
class FieldError:
    """One bad field of a request, e.g. `candidates[3].features.age`."""

    field: str
    message: str


class ServiceError(Exception):
    """A failure that the caller sees. `code` is stable and meant for programs, `detail` is meant for people."""

    code = "internal_error"

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class UnknownModel(ServiceError):
    """The registry has no such version."""

    code = "unknown_model"


class Conflict(ServiceError):
    """The change does not fit the present state of the document."""

    code = "conflict"


class InvalidRequest(ServiceError):
    """The request is well-formed, but asks for something that is not allowed."""

    code = "invalid_request"


class Unusable(ServiceError):
    """A bundle that cannot be rolled out."""

    code = "unusable_model"


class NotReady(ServiceError):
    """No model can rank at present."""

    code = "not_ready"

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail)
        if code:
            self.code = code


class Overloaded(ServiceError):
    """Admission control refuses the request."""

    code = "overloaded"


class StoreUnavailable(ServiceError):
    """The feature store cannot be reached."""

    code = "store_unavailable"


class RegistryUnavailable(ServiceError):
    """A document of the registry cannot be written."""

    code = "registry_unavailable"

    def __init__(self, document: str, error: OSError) -> None:
        super().__init__(f"{document} cannot be written: {error.strerror}; the live versions stay")


class DeadlineExceeded(ServiceError):
    """The request's deadline has passed."""

    code = "deadline_exceeded"


class CallerLeft(Exception):
    """The caller closed the connection, so nobody waits for the answer."""


class DocumentError(ValueError):
    """A document of operators that cannot be used or does not fit a model.

    `field` is the place in the document, `code` the code with which a version is refused because of it.
    """

    code = "document_mismatch"

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def invalid(field: str, message: str) -> InvalidRequest:
    """Return an InvalidRequest for one field."""
    return InvalidRequest(f"{field}: {message}", errors=[FieldError(field, message)])


def fault_of(error: ErrorDetails, model: type[BaseModel]) -> str:
    """Return the problem of a field in pydantic's words; for an unknown field, the nearest one of its section."""
    location = error["loc"]
    if location[-1:] == ("timestamp",) and error["type"] in ("greater_than_equal", "less_than_equal"):
        return f"{error['msg']}; times are milliseconds since 1970, not seconds or microseconds"
    if error["type"] != "extra_forbidden":
        return error["msg"]
    return f"unknown field{nearest(location[-1], keys_at(model, location[:-1]))}"


def first_fault(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first bad field and its problem."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {fault_of(first, model)}"
