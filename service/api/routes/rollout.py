"""Answers `PUT /models/rollout` and `POST /models/rollback`: what shall be live."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, model_validator

from service.api.body import JsonBody
from service.api.fields import Author, Reason, RequestBody, Revision, RollbackRequest
from service.api.openapi import BODY, CHANGE, OPERATOR, refuses
from service.api.operators import Operator
from service.api.services import Worker
from service.bundle.registry import Target
from service.errors import UnknownModel, Unusable
from service.rollout.operations import change_rollout, roll_back
from service.rollout.rollout import Canary, Limits, Rollout

router = APIRouter(tags=["models"], dependencies=[Operator])


class RolloutRequest(RequestBody):
    """What shall be live. What is not named keeps its value, null removes a canary or shadow; a limit that is not named keeps its value too."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "stable": {"name": "kuairand-mmoe", "version": "3"},
                "canary": {"name": "kuairand-mmoe", "version": "4", "percent": 5},
                "shadow": None,
            }
        }
    )

    stable: Target | None = None
    canary: Canary | None = None
    shadow: Target | None = None
    limits: Limits | None = None
    revision: Revision = None
    author: Author = ""
    reason: Reason = ""

    @model_validator(mode="after")
    def _names_something(self) -> "RolloutRequest":
        named = self.model_fields_set & {"stable", "canary", "shadow", "limits"}
        if not named:
            raise ValueError("name stable, canary, shadow or limits")
        if "stable" in named and self.stable is None:
            raise ValueError("stable: a version is always live; it cannot be null")
        return self

    def changes(self) -> dict[str, Any]:
        """What the request names of the document."""
        return {
            name: getattr(self, name)
            for name in ("stable", "canary", "shadow", "limits")
            if name in self.model_fields_set
        }


@router.put(
    "/models/rollout",
    summary="Make published versions live: stable, canary, shadow",
    responses=refuses(*BODY, *OPERATOR, *CHANGE, UnknownModel, Unusable),
)
async def change(
    body: Annotated[RolloutRequest, Depends(JsonBody(RolloutRequest, max_keys=1000))], worker: Worker
) -> Rollout:
    """Changes the rollout document. What the request does not name keeps its value."""
    return await change_rollout(worker.follower, body.changes(), body.author, body.reason, body.revision)


@router.post(
    "/models/rollback",
    summary="Make live again what was live before",
    responses=refuses(*BODY, *OPERATOR, *CHANGE),
)
async def rollback(
    body: Annotated[RollbackRequest, Depends(JsonBody(RollbackRequest, required=False, max_keys=1000))], worker: Worker
) -> Rollout:
    """Writes an earlier state as a new revision."""
    return await roll_back(worker.follower, body.author, body.reason, body.to, body.revision)
