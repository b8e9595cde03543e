"""Defines what every change of a revisioned document records, and how the states of two revisions are compared."""

from dataclasses import dataclass
from typing import Any, Protocol, cast

from pydantic import BaseModel

MAX_REVISION = 2**53  # every reader of JSON can hold it, and one more is still a number


@dataclass(frozen=True)
class Edit:
    """Who changes a document and why. With `expected_revision`, the document must still be at that revision."""

    author: str
    reason: str = ""
    expected_revision: int | None = None


class Recorded(BaseModel):
    """The fields of every document beside its revision and state: who changed it, why, when, and the earlier states.

    `restores` is the revision that a rollback restored. `history` has raw JSON, newest first. As the first base class,
    it puts its fields at the end of the file.
    """

    author: str = ""
    reason: str = ""
    written_at: str = ""
    restores: int | None = None
    history: tuple[dict[str, Any], ...] = ()


class _Revisioned(Protocol):
    revision: int


def revision_of(document: Recorded) -> int:
    """The revision, which each model declares itself, with its own limits and at the place that it has in the file."""
    return cast(_Revisioned, document).revision


def without_empty(value: Any) -> Any:
    """Remove null and empty values, so that a field added by a later version does not make two states differ."""
    if isinstance(value, dict):
        return {k: without_empty(v) for k, v in value.items() if v is not None and v not in ({}, [], "")}
    if isinstance(value, (list, tuple)):
        return [without_empty(v) for v in value]
    return value
