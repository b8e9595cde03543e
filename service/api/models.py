"""Owns `GET /models` and `PUT /models/rollout`: what is published, what this worker serves with, and what shall be live."""

import asyncio
import os
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api.body import parse, read_body
from service.api.contract import RolloutRequest
from service.api.openapi import body_of
from service.api.operators import require_operator
from service.errors import Conflict, InternalError, UnknownModel, Unusable
from service.fusion import FusionError, bind, plain_profiles
from service.live import Follower
from service.registry import Target, folder_of, published
from service.rollout import Rollout, RolloutUnreadable, read_rollout, write_rollout
from service.settings import Settings
from service.verify import BundleRejected, read_manifest


def model_routes(follower: Follower, settings: Settings) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="Published versions, the rollout document, and what this worker serves with")
    async def models() -> Response:
        return JSONResponse(await asyncio.to_thread(overview, follower, settings))

    @router.put("/models/rollout", summary="Make a published version live", openapi_extra=body_of(RolloutRequest))
    async def rollout(request: Request) -> Response:
        require_operator(request, settings)
        wanted = parse(RolloutRequest, await read_body(request.scope, request.receive, settings.max_body_bytes))
        document = await asyncio.to_thread(change, follower, settings, wanted)
        return JSONResponse(document.model_dump())

    return router


def overview(follower: Follower, settings: Settings) -> dict[str, Any]:
    """What `GET /models` shows. A registry that cannot be read shows as a problem, not as an empty list."""
    answer: dict[str, Any] = {"published": [], "rollout": None, "worker": _worker(follower)}
    try:
        for found in published(settings.registry):
            entry: dict[str, Any] = {"name": found.target.name, "version": found.target.version}
            if found.manifest is None:
                entry["problem"] = found.problem
            else:
                tasks = [{"name": t.name, "kind": t.kind} for t in found.manifest.tasks]
                entry |= {"created_at": found.manifest.created_at, "architecture": found.manifest.architecture, "tasks": tasks}
                entry |= {"fingerprint": found.manifest.fingerprint}
            answer["published"].append(entry)
        answer["rollout"] = read_rollout(settings.registry).model_dump()
    except OSError as error:
        answer["problem"] = f"the registry cannot be read: {error.strerror}"
    except RolloutUnreadable as error:
        answer["problem"] = str(error)
    return answer


def _worker(follower: Follower) -> dict[str, Any]:
    live = follower.live
    shown = None
    if live is not None:
        shown = {"name": live.bundle.manifest.name, "version": live.bundle.manifest.version, "role": live.role, "revision": live.revision}
    refused = [{"model": r.target, "code": r.code, "detail": r.detail, "at": r.at} for r in reversed(follower.refusals)]
    return {"pid": os.getpid(), "live": shown, "refused": refused}


def change(follower: Follower, settings: Settings, wanted: RolloutRequest) -> Rollout:
    """Write the document, after every doubt that can be had without loading the model."""
    check_usable(follower, settings, wanted.stable)
    try:
        return write_rollout(settings.registry, wanted.stable, wanted.author, wanted.revision)
    except OSError as error:
        raise InternalError(f"rollout.json cannot be written: {error.strerror}") from error


def check_usable(follower: Follower, settings: Settings, target: Target) -> None:
    """Raises UnknownModel, Conflict (it does not fit the fusion profiles) or Unusable."""
    try:
        manifest = read_manifest(folder_of(settings.registry, target))
        bind(follower.profiles or plain_profiles(manifest), manifest.task_names)
    except BundleRejected as error:
        if error.code == "bundle_missing":
            raise UnknownModel(f"{target} is not published; GET /models lists what is") from None
        raise Unusable(f"{error.code}: {error.detail}") from None
    except FusionError as error:
        raise Conflict(f"fusion_mismatch: {error}") from None
