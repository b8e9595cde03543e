"""Answers `PUT /models/rollout` and `POST /models/rollback`: changes which versions are live."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from service.api.access.operators import Operator
from service.api.body import JsonBody
from service.api.changes import IfMatch, Status, Uptake, edit_of, entity_tag, uptake
from service.api.fields import Author, Reason, RequestBody, Revision, RollbackRequest
from service.api.openapi import BODY, CHANGE, OPERATOR, refuses
from service.api.services import Services, Worker
from service.bundle.registry import Target
from service.errors import UnknownModel, Unusable
from service.rollout.lines.view import lines_of, targets_of_line
from service.rollout.operations import change_rollout, roll_back
from service.rollout.rollout import DEFAULT_LINE, MOST_SCENES, ROLLOUT_FILE, Canary, Limits, LineName, Rollout, Scene
from service.rollout.trials.scene_names import scene_warnings

JsonObject = dict[str, Any]
_OF_A_LINE = ("stable", "canary", "shadow", "first_pass", "limits")
_TEXT = r"^[a-z0-9][a-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
router = APIRouter(tags=["models"], dependencies=[Operator])


def _from_text(value: Any) -> Any:
    """Return the fields of a version that is given as `name/version`."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(_TEXT, value):
        raise ValueError("as text, a version is `name/version`, for example `kuairand-mmoe/2`")
    name, _, version = value.partition("/")
    return {"name": name, "version": version}


TargetOrText = Annotated[
    Target,
    BeforeValidator(_from_text, json_schema_input_type=Target | Annotated[str, Field(pattern=_TEXT)]),
    Field(description="a published version, as an object or as the text `name/version`"),
]


class RolloutRequest(RequestBody):
    """The requested change of the rollout document.

    Fields that are not given keep their value; null removes a canary, shadow or first pass. Limits that are not given
    also keep their value. `line` is the line whose versions and limits change; without it, the default line. A null
    `stable` ends a line that no scene uses. `scenes` says which line a scene uses from now on; null: the default line.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "stable": {"name": "kuairand-mmoe", "version": "3"},
                    "canary": {"name": "kuairand-mmoe", "version": "4", "percent": 5},
                    "shadow": None,
                },
                {"stable": "kuairand-mmoe/3", "shadow": None},
                {"limits": {"psi": 0.5, "error_rate": 0.01}, "reason": "stricter limits for the next canary"},
                {
                    "line": "item_page",
                    "stable": {"name": "kuairand-esmm", "version": "1"},
                    "scenes": {"detail": "item_page"},
                },
            ]
        }
    )

    line: LineName | None = None
    stable: TargetOrText | None = None
    canary: Canary | None = None
    shadow: TargetOrText | None = None
    first_pass: TargetOrText | None = Field(None, description="small version that scores all candidates in a brown-out")
    limits: Limits | None = None
    scenes: dict[Scene, LineName | None] = Field({}, max_length=MOST_SCENES)
    revision: Revision = None
    author: Author = ""
    reason: Reason = ""

    @model_validator(mode="after")
    def _names_something(self) -> "RolloutRequest":
        named = self.model_fields_set & {*_OF_A_LINE, "scenes"}
        if not named:
            raise ValueError("name stable, canary, shadow, first_pass, limits or scenes")
        if "stable" in named and self.stable is None and self.line in (None, DEFAULT_LINE):
            raise ValueError("stable: a version is always live; it cannot be null")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields that the request gives."""
        names = ("line", *_OF_A_LINE, "scenes")
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class ModelsRollbackRequest(RollbackRequest):
    """Restore the previous versions of a line (without `line`: of the default line), or those of revision `to`."""

    line: LineName | None = None


class RolloutChange(Rollout):
    """The document after a change. `served` says whether a worker ranks by it already.

    `warnings` name scenes of lines that the fusion profiles do not have.
    """

    served: Uptake
    warnings: list[str]


@router.put(
    "/models/rollout",
    summary="Make published versions live: stable, canary, shadow",
    response_model=RolloutChange,
    responses=refuses(*BODY, *OPERATOR, *CHANGE, UnknownModel, Unusable),
)
async def change(
    body: Annotated[RolloutRequest, Depends(JsonBody(RolloutRequest, max_keys=1000))],
    worker: Worker,
    if_match: IfMatch,
    response: Response,
) -> JsonObject:
    """Changes the rollout document. Fields that are not given keep their value."""
    document = await change_rollout(worker.follower, body.changes(), edit_of(body, if_match))
    return await _changed(worker, document, body.line, response)


@router.post(
    "/models/rollback",
    summary="Make the previous versions live again",
    response_model=RolloutChange,
    responses=refuses(*BODY, *OPERATOR, *CHANGE),
)
async def rollback(
    body: Annotated[ModelsRollbackRequest, Depends(JsonBody(ModelsRollbackRequest, required=False, max_keys=1000))],
    worker: Worker,
    if_match: IfMatch,
    response: Response,
) -> JsonObject:
    """Writes an earlier state of one line as a new revision; other lines stay as they are."""
    document = await roll_back(worker.follower, body.line, body.to, edit_of(body, if_match))
    return await _changed(worker, document, body.line, response)


async def _changed(worker: Services, document: Rollout, line: str | None, response: Response) -> JsonObject:
    """Return the document, and whether the first worker serves or refused the changed line."""
    name = line or DEFAULT_LINE
    present = lines_of(document).get(name)
    targets = targets_of_line(present) if present is not None else {}

    def serves(status: Status) -> bool:
        if present is None:  # the line has ended
            return name not in status.get("lines", {})
        of_line = status if name == DEFAULT_LINE else status.get("lines", {}).get(name, {})
        roles = {"live" if role == "stable" else role: target for role, target in targets.items()}
        return all(_serves_role(of_line.get(role), target, document.revision) for role, target in roles.items())

    served = await uptake(worker, serves, {*map(str, targets.values()), ROLLOUT_FILE}, document.written_at)
    response.headers.update(entity_tag(document.revision))
    warnings = scene_warnings(document.scenes, worker.follower.profiles)
    return document.model_dump(mode="json") | {"served": served.model_dump(mode="json"), "warnings": warnings}


def _serves_role(live: Status | None, target: Target, revision: int) -> bool:
    """Return whether a worker has loaded a version in a role, at this revision of the document or a later one."""
    if live is None or live["revision"] < revision:
        return False
    return bool((live["name"], live["version"]) == (target.name, target.version))
