"""Defines the fields that several requests and responses share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict

from features.keys import MAX_ID_CHARACTERS

MAX_BATCH = 1000
MAX_LABEL_CHARACTERS = 512  # of a scene or an action
Label = Annotated[
    Annotated[str, Strict(), Field(max_length=MAX_LABEL_CHARACTERS)]
    | Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)],
    Field(union_mode="left_to_right"),
]
RequestId = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
Id = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
Position = Annotated[int, Strict(), Field(ge=1, le=1_000_000, description="`rank` in the answer of `/rank`")]
Features = Annotated[dict[str, Any], Field(description="raw values by feature name; null is a missing value")]
Revision = Annotated[
    int | None, Strict(), Field(ge=0, description="make the change only if the document is still at this revision")
]
Author = Annotated[str, Field(max_length=200)]
Reason = Annotated[str, Field(max_length=1000)]


class RequestBody(BaseModel):
    """The base of every request body."""

    # Ids rarely repeat: looking each one up in a cache of strings costs more than creating the string.
    model_config = ConfigDict(extra="forbid", frozen=True, cache_strings="keys")


class ResponseBody(BaseModel):
    """The base of every response body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RollbackRequest(RequestBody):
    """Restore the previous state or, if `to` is given, the state of that revision."""

    to: Annotated[int | None, Strict(), Field(ge=0)] = None
    revision: Revision = None
    author: Author = ""
    reason: Reason = ""
