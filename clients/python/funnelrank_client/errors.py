"""Errors of the client: one class for each way in which a caller can react."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# ruff: noqa: N818 - an error class has the name that the caller reads

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class BadField:
    """One field of a request that the service refused, e.g. `candidates[3].features.age`."""

    field: str
    message: str


class FunnelrankError(Exception):
    """Any failure of a call."""


class NoAnswer(FunnelrankError):
    """The service could not be reached, the connection broke too early, or the answer is not one of the service."""


class ProblemError(FunnelrankError):
    """The service refused the call. `code` is stable and meant for programs, `detail` is meant for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str = "",
        errors: tuple[BadField, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.errors = errors
        self.retry_after_s = retry_after_s


class BadRequest(ProblemError):
    """The call is wrong and stays wrong if it is repeated (400, 404, 405, 413, 422)."""


class NotAllowed(ProblemError):
    """The key or token is missing or wrong or permits less, or the call may not come from here (401, 403)."""


class Conflict(ProblemError):
    """The document has changed since it was read (409, 412). Read it again, then decide."""


class Unavailable(ProblemError):
    """The service cannot answer now (503), or not this caller (429). `retry_after_s` is the pause that it asks for."""


class DeadlineExceeded(FunnelrankError):
    """The deadline of the call passed, in the service (504) or on the way."""


_CLASSES: Mapping[int, type[ProblemError]] = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: BadRequest,
    405: BadRequest,
    409: Conflict,
    412: Conflict,
    413: BadRequest,
    422: BadRequest,
    429: Unavailable,
    503: Unavailable,
}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> FunnelrankError:
    """The error for an answer that is not 2xx. `headers` has lower-case names.

    A proxy before the service may answer too: then there is no problem document, and `code` is empty.
    """
    problem = _problem_of(body)
    detail = str(problem.get("detail") or body[:_SHOWN_CHARACTERS].decode(errors="replace"))
    code = str(problem.get("code", ""))
    if status == 504:
        return DeadlineExceeded(f"504 {code}: {detail}")
    listed = problem.get("errors")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    errors = tuple(BadField(str(entry.get("field", "")), str(entry.get("message", ""))) for entry in entries)
    return _CLASSES.get(status, ProblemError)(
        status, code, detail, str(problem.get("request_id", "")), errors, _seconds(headers.get("retry-after"))
    )


def _problem_of(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _seconds(retry_after: str | None) -> float | None:
    """The pause in seconds; None if the header is absent or holds a date, which the service never sends."""
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:
        return None
