"""Owns `GET /fusion`, `PUT /fusion` and `POST /fusion/rollback`: the profiles that rankings are made with, while it serves."""

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api.body import parse, parse_or_empty, read_body
from service.api.operators import require_operator
from service.api.requests import FusionRequest, RollbackRequest
from service.errors import Conflict, NotReady, RegistryUnavailable, invalid
from service.fusion import FusionError, FusionProfiles, plain_profiles
from service.fusion.document import FusionDocument, roll_back_fusion, write_fusion
from service.rollout.follower import Follower
from service.settings import Settings


def fusion_routes(follower: Follower, settings: Settings) -> APIRouter:
    router = APIRouter(tags=["fusion"])

    @router.get("/fusion", summary="Fusion profiles by name, which one a scene uses, experiments, and what held before")
    async def fusion() -> Response:
        manifest = follower.current().bundle.manifest
        profiles = follower.profiles or plain_profiles(manifest)
        return JSONResponse(
            shown(profiles) | {"tasks": list(manifest.task_names), "overrides_allowed": settings.fusion_overrides}
        )

    @router.put("/fusion", summary="Make other profiles hold")
    async def change(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse(FusionRequest, await read_body(request.scope, request.receive, settings.max_body_bytes))
        return JSONResponse(shown(await asyncio.to_thread(_change, follower, settings, wanted)))

    @router.post("/fusion/rollback", summary="Make the profiles hold again that held before")
    async def rollback(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse_or_empty(
            RollbackRequest, await read_body(request.scope, request.receive, settings.max_body_bytes)
        )
        return JSONResponse(shown(await asyncio.to_thread(_roll_back, follower, settings, wanted)))

    return router


def shown(profiles: FusionProfiles) -> dict[str, Any]:
    """A document as JSON, without what a profile leaves at its default."""
    document = profiles.model_dump(mode="json")
    document["profiles"] = {
        name: p.model_dump(mode="json", exclude_defaults=True) for name, p in profiles.profiles.items()
    }
    if isinstance(profiles, FusionDocument):
        document["history"] = [_past(past) for past in profiles.history]
    return document


def _past(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the history, which is raw JSON, in the same form."""
    profiles = {name: _without_defaults(profile) for name, profile in entry.get("profiles", {}).items()}
    defaults = {"withdrawn": False, "scenes": {}, "experiments": {}, "author": "", "reason": ""}
    return defaults | entry | {"profiles": profiles}


def _without_defaults(profile: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in profile.items() if value not in (None, {})}


def _change(follower: Follower, settings: Settings, wanted: FusionRequest) -> FusionDocument:
    check_fits(follower, wanted)
    live = follower.live
    if live is None:
        raise NotReady("no model is loaded that the profiles could be checked against")
    before = follower.started_with or plain_profiles(live.bundle.manifest)
    try:
        return write_fusion(
            settings.registry, wanted, before, wanted.author, reason=wanted.reason, expected_revision=wanted.revision
        )
    except OSError as error:
        raise RegistryUnavailable("fusion.json", error) from error


def _roll_back(follower: Follower, settings: Settings, wanted: RollbackRequest) -> FusionDocument:
    try:
        return roll_back_fusion(
            settings.registry,
            wanted.author,
            reason=wanted.reason,
            to=wanted.to,
            expected_revision=wanted.revision,
            check=partial(check_fits, follower),
        )
    except FusionError as error:
        raise Conflict(str(error)) from None
    except OSError as error:
        raise RegistryUnavailable("fusion.json", error) from error


def check_fits(follower: Follower, profiles: FusionProfiles) -> None:
    """Raises InvalidRequest with the field and, in a formula, the column, where a profile does not fit every version in use."""
    for live in follower.snapshot.loaded():
        try:
            follower.bound(live.bundle.manifest, profiles)
        except FusionError as error:
            raise invalid(error.field, f"{error} ({live.role} {live.bundle.label})") from None
