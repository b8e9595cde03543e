"""Owns `GET /models`, `PUT /models/rollout` and `POST /models/rollback`: what is published, what the workers serve with, what shall be live."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api.body import parse, parse_or_empty, read_body
from service.api.operators import require_operator
from service.api.requests import RollbackRequest, RolloutRequest
from service.bundle.registry import Target, folder_of, published
from service.bundle.verify import BundleRejected, read_manifest
from service.errors import Conflict, RegistryUnavailable, UnknownModel, Unusable
from service.fusion import FusionError
from service.rollout.follower import Follower
from service.rollout.rollout import Rollout, RolloutUnreadable, change_rollout, read_rollout, roll_back
from service.settings import Settings


def model_routes(follower: Follower, settings: Settings) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="Published versions, the rollout document, and what every worker serves with")
    async def models() -> Response:
        return JSONResponse(await asyncio.to_thread(overview, follower, settings))

    @router.put("/models/rollout", summary="Make published versions live: stable, canary, shadow")
    async def rollout(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse(RolloutRequest, await read_body(request.scope, request.receive, settings.max_body_bytes))
        document = await asyncio.to_thread(change, follower, settings, wanted)
        return JSONResponse(document.model_dump(mode="json"))

    @router.post("/models/rollback", summary="Make live again what was live before")
    async def rollback(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse_or_empty(
            RollbackRequest, await read_body(request.scope, request.receive, settings.max_body_bytes)
        )
        document = await asyncio.to_thread(go_back, settings, wanted)
        return JSONResponse(document.model_dump(mode="json"))

    return router


def overview(follower: Follower, settings: Settings) -> dict[str, Any]:
    """What `GET /models` shows. A registry that cannot be read shows as a problem, not as an empty list."""
    answer: dict[str, Any] = {
        "published": [],
        "rollout": None,
        "worker": follower.described(),
        "workers": follower.status.all(),
    }
    try:
        for found in published(settings.registry, settings.trusted_keys):
            entry: dict[str, Any] = {"name": found.target.name, "version": found.target.version}
            if found.manifest is None:
                entry["problem"] = found.problem
            else:
                tasks = [{"name": t.name, "kind": t.kind} for t in found.manifest.tasks]
                entry |= {
                    "created_at": found.manifest.created_at,
                    "architecture": found.manifest.architecture,
                    "tasks": tasks,
                }
                entry |= {"fingerprint": found.manifest.fingerprint}
            answer["published"].append(entry)
        answer["rollout"] = read_rollout(settings.registry).model_dump(mode="json")
    except OSError as error:
        answer["problem"] = f"the registry cannot be read: {error.strerror}"
    except RolloutUnreadable as error:
        answer["problem"] = str(error)
    return answer


def change(follower: Follower, settings: Settings, wanted: RolloutRequest) -> Rollout:
    """Write the document, after every doubt that can be had without loading a model."""
    changes = wanted.changes()
    for target in (changes.get("stable"), changes.get("canary"), changes.get("shadow")):
        if target is not None:
            check_usable(follower, settings, target)
    try:
        return change_rollout(
            settings.registry, changes, wanted.author, reason=wanted.reason, expected_revision=wanted.revision
        )
    except OSError as error:
        raise RegistryUnavailable("rollout.json", error) from error


def go_back(settings: Settings, wanted: RollbackRequest) -> Rollout:
    try:
        return roll_back(
            settings.registry, wanted.author, reason=wanted.reason, to=wanted.to, expected_revision=wanted.revision
        )
    except OSError as error:
        raise RegistryUnavailable("rollout.json", error) from error


def check_usable(follower: Follower, settings: Settings, target: Target) -> None:
    """Raises UnknownModel, Conflict (it does not fit the fusion profiles) or Unusable."""
    try:
        manifest = read_manifest(folder_of(settings.registry, target), settings.trusted_keys)
        follower.bound(manifest)
    except BundleRejected as error:
        if error.code == "bundle_missing":
            raise UnknownModel(f"{target} is not published; GET /models lists what is") from None
        raise Unusable(f"{error.code}: {error.detail}") from None
    except FusionError as error:
        raise Conflict(f"fusion_mismatch: {error}") from None
