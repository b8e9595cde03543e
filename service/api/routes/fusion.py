"""Answers `GET /fusion`, `PUT /fusion` and `POST /fusion/rollback`: the profiles that rankings are made with."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import ConfigDict

from service.api.access.operators import Operator
from service.api.body import JsonBody
from service.api.changes import IfMatch, Uptake, changed_document, document_response, edit_of
from service.api.fields import Author, Reason, Revision, RollbackRequest
from service.api.openapi import BODY, CHANGE, OPERATOR, refuses
from service.api.services import Worker
from service.errors import NotReady
from service.fusion import FusionProfiles, plain_profiles
from service.fusion.document import FUSION_FILE, FusionDocument
from service.rollout.operations import change_fusion, roll_back_profiles

router = APIRouter(tags=["fusion"])
JsonObject = dict[str, Any]


class FusionRequest(FusionProfiles):
    """The new profiles, scenes and experiments; they replace all present ones.

    With `revision` the change is made only if the fusion document is still at that revision.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "profiles": {
                    "default": {"kind": "weighted_sum", "weights": {"pctr": 1.0, "pctcvr": 10.0}},
                    "shop": {"kind": "formula", "formula": "pctr ** 0.6 * pctcvr ** 1.2 * log1p(price)"},
                },
                "scenes": {"shop": "shop"},
            }
        }
    )

    revision: Revision = None  # type: ignore[assignment]
    author: Author = ""
    reason: Reason = ""


class FusionState(FusionDocument):
    """The profiles in use, with the live model's tasks.

    Author and history are set if `PUT /fusion` has written a document.
    """

    tasks: tuple[str, ...] = ()
    overrides_allowed: bool = False


class FusionChange(FusionDocument):
    """The document after a change. `served` says whether a worker ranks with it already."""

    served: Uptake


@router.get(
    "/fusion",
    summary="Fusion profiles by name, which one a scene uses, experiments, and the earlier states",
    response_model=FusionState,
    responses=refuses(NotReady),
)
async def state(worker: Worker) -> JSONResponse:
    """The profiles that this worker ranks with."""
    manifest = worker.follower.current().bundle.manifest
    profiles = worker.follower.profiles or plain_profiles(manifest.task_kinds)
    more = {"tasks": list(manifest.task_names), "overrides_allowed": worker.settings.fusion_overrides}
    return await document_response(profiles.revision, lambda: shown(profiles) | more)


@router.put(
    "/fusion",
    summary="Make other profiles hold",
    dependencies=[Operator],
    response_model=FusionChange,
    responses=refuses(*BODY, *OPERATOR, *CHANGE, NotReady),
)
async def change(
    body: Annotated[FusionRequest, Depends(JsonBody(FusionRequest, max_keys=20_000, threaded=True))],
    worker: Worker,
    if_match: IfMatch,
) -> JSONResponse:
    """Replaces the fusion document. The profiles must fit every version in use."""
    document = await change_fusion(worker.follower, body, edit_of(body, if_match))
    return await changed_document(worker, FUSION_FILE, document, partial(shown, document))


@router.post(
    "/fusion/rollback",
    summary="Restore earlier profiles",
    dependencies=[Operator],
    response_model=FusionChange,
    responses=refuses(*BODY, *OPERATOR, *CHANGE),
)
async def rollback(
    body: Annotated[RollbackRequest, Depends(JsonBody(RollbackRequest, required=False, max_keys=1000))],
    worker: Worker,
    if_match: IfMatch,
) -> JSONResponse:
    """Writes an earlier state as a new revision."""
    document = await roll_back_profiles(worker.follower, body.to, edit_of(body, if_match))
    return await changed_document(worker, FUSION_FILE, document, partial(shown, document))


def shown(profiles: FusionProfiles) -> JsonObject:
    """Return a document as JSON, without the fields of a profile that have their default."""
    document = profiles.model_dump(mode="json")
    document["profiles"] = {
        name: profile.model_dump(mode="json", exclude_defaults=True) for name, profile in profiles.profiles.items()
    }
    if isinstance(profiles, FusionDocument):
        document["history"] = [_past(entry) for entry in profiles.history]
    return document


def _past(entry: JsonObject) -> JsonObject:
    """Return an entry of the history, which is stored as raw JSON, in the form of the present document."""
    profiles = {name: _without_defaults(profile) for name, profile in entry.get("profiles", {}).items()}
    defaults = {"withdrawn": False, "scenes": {}, "experiments": {}, "author": "", "reason": ""}
    return defaults | entry | {"profiles": profiles}


def _without_defaults(profile: JsonObject) -> JsonObject:
    return {name: value for name, value in profile.items() if value not in (None, {})}
