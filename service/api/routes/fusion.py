"""Answers `GET /fusion`, `PUT /fusion` and `POST /fusion/rollback`: the profiles that rankings are made with."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import ConfigDict

from service.api.body import JsonBody
from service.api.fields import Author, Reason, Revision, RollbackRequest
from service.api.openapi import BODY, CHANGE, OPERATOR, refuses
from service.api.operators import Operator
from service.api.services import Services, Worker
from service.errors import Conflict, NotReady, RegistryUnavailable, invalid
from service.fusion import FusionError, FusionProfiles, plain_profiles
from service.fusion.document import FusionDocument, roll_back_fusion, write_fusion
from service.rollout.follower import Follower

router = APIRouter(tags=["fusion"])
JsonObject = dict[str, Any]


class FusionRequest(FusionProfiles):
    """The profiles, scenes and experiments that shall hold, all of them. With `revision` only where fusion is still at it."""

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
    """The profiles in force, with the live model's tasks. Author and history are set where `PUT /fusion` has written a document."""

    tasks: tuple[str, ...] = ()
    overrides_allowed: bool = False


@router.get(
    "/fusion",
    summary="Fusion profiles by name, which one a scene uses, experiments, and what held before",
    response_model=FusionState,
    response_model_exclude_unset=True,
    responses=refuses(NotReady),
)
async def state(worker: Worker) -> JsonObject:
    """What this worker ranks with."""
    manifest = worker.follower.current().bundle.manifest
    profiles = worker.follower.profiles or plain_profiles(manifest)
    allowed = worker.settings.fusion_overrides
    return shown(profiles) | {"tasks": list(manifest.task_names), "overrides_allowed": allowed}


@router.put(
    "/fusion",
    summary="Make other profiles hold",
    dependencies=[Operator],
    response_model=FusionDocument,
    response_model_exclude_unset=True,
    responses=refuses(*BODY, *OPERATOR, *CHANGE, NotReady),
)
async def change(body: Annotated[FusionRequest, Depends(JsonBody(FusionRequest))], worker: Worker) -> JsonObject:
    """Replaces the fusion document. The profiles must fit every version in use."""
    return shown(await asyncio.to_thread(_change, worker, body))


@router.post(
    "/fusion/rollback",
    summary="Make the profiles hold again that held before",
    dependencies=[Operator],
    response_model=FusionDocument,
    response_model_exclude_unset=True,
    responses=refuses(*BODY, *OPERATOR, *CHANGE),
)
async def rollback(
    body: Annotated[RollbackRequest, Depends(JsonBody(RollbackRequest, required=False))], worker: Worker
) -> JsonObject:
    """Writes an earlier state as a new revision."""
    return shown(await asyncio.to_thread(_roll_back, worker, body))


def shown(profiles: FusionProfiles) -> JsonObject:
    """A document as JSON, without what a profile leaves at its default."""
    document = profiles.model_dump(mode="json")
    document["profiles"] = {
        name: profile.model_dump(mode="json", exclude_defaults=True) for name, profile in profiles.profiles.items()
    }
    if isinstance(profiles, FusionDocument):
        document["history"] = [_past(entry) for entry in profiles.history]
    return document


def _past(entry: JsonObject) -> JsonObject:
    """An entry of the history, which is raw JSON, in the same form."""
    profiles = {name: _without_defaults(profile) for name, profile in entry.get("profiles", {}).items()}
    defaults = {"withdrawn": False, "scenes": {}, "experiments": {}, "author": "", "reason": ""}
    return defaults | entry | {"profiles": profiles}


def _without_defaults(profile: JsonObject) -> JsonObject:
    return {name: value for name, value in profile.items() if value not in (None, {})}


def _change(worker: Services, request: FusionRequest) -> FusionDocument:
    follower = worker.follower
    check_fits(follower, request)
    live = follower.live
    if live is None:
        raise NotReady("no model is loaded that the profiles could be checked against")
    before = follower.started_with or plain_profiles(live.bundle.manifest)
    try:
        return write_fusion(
            worker.settings.registry,
            request,
            before,
            request.author,
            reason=request.reason,
            expected_revision=request.revision,
        )
    except OSError as error:
        raise RegistryUnavailable("fusion.json", error) from error


def _roll_back(worker: Services, request: RollbackRequest) -> FusionDocument:
    try:
        return roll_back_fusion(
            worker.settings.registry,
            request.author,
            reason=request.reason,
            to=request.to,
            expected_revision=request.revision,
            check=partial(check_fits, worker.follower),
        )
    except FusionError as error:
        raise Conflict(str(error)) from None
    except OSError as error:
        raise RegistryUnavailable("fusion.json", error) from error


def check_fits(follower: Follower, profiles: FusionProfiles) -> None:
    """Raises InvalidRequest with the field and, in a formula, the column, if a profile does not fit every version in use."""
    for live in follower.snapshot.loaded():
        try:
            follower.bound(live.bundle.manifest, profiles)
        except FusionError as error:
            raise invalid(error.field, f"{error} ({live.role} {live.bundle.label})") from None
