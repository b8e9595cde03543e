"""Owns `GET /fusion`: the profiles and scenes that rankings are made with."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from service.fusion import plain_profiles
from service.live import Follower
from service.settings import Settings


def fusion_routes(follower: Follower, settings: Settings) -> APIRouter:
    router = APIRouter(tags=["fusion"])

    @router.get("/fusion", summary="Fusion profiles by name, and which one a scene uses")
    async def fusion() -> Response:
        manifest = follower.current().bundle.manifest
        profiles = follower.profiles or plain_profiles(manifest)
        return JSONResponse(profiles.model_dump() | {"tasks": list(manifest.task_names), "overrides_allowed": settings.fusion_overrides})

    return router
