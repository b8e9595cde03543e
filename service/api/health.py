"""Owns `/livez`, `/readyz` and `/metrics`."""

from dataclasses import dataclass

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.middleware import Lifecycle
from service.errors import NotReady
from service.metrics.metrics import Metrics
from service.rollout.follower import Follower
from service.settings import Settings
from service.store.schemas import check_schema


@dataclass(frozen=True)
class Check:
    """One thing that must hold for this worker to take traffic."""

    name: str
    ok: bool
    detail: str


async def checks(follower: Follower, lifecycle: Lifecycle, settings: Settings) -> list[Check]:
    """All checks, the store's by asking it now."""
    found = [Check("draining", not lifecycle.draining, "the service is stopping" if lifecycle.draining else "no")]
    live = follower.live
    if live is None:
        last = follower.refusals[-1] if follower.refusals else None
        found.append(Check("model", False, f"{last.target}: {last.code}: {last.detail}" if last else "not loaded yet"))
        return found
    found.append(Check("model", True, f"{live.bundle.label} is loaded and warmed"))
    store = await check_schema(follower.reader, live.bundle.layouts)
    if not store.reachable:
        allowed = settings.allow_degraded_ready
        found.append(
            Check(
                "store",
                allowed,
                "Redis does not answer" + ("; rankings are degraded, which is allowed" if allowed else ""),
            )
        )
    elif store.problem is not None:
        found.append(Check("schema", False, f"schema_not_loaded: {store.problem}"))
    else:
        found.append(Check("store", True, "Redis answers" if store.loaded else "Redis answers and is empty"))
    return found


def health_routes(follower: Follower, lifecycle: Lifecycle, metrics: Metrics, settings: Settings) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Whether the process lives; never asks Redis")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether this worker takes traffic; ?verbose lists every check")
    async def readyz(verbose: str | None = None) -> Response:
        found = await checks(follower, lifecycle, settings)
        failing = [c for c in found if not c.ok]
        if verbose is not None:
            body = {
                "status": "failing" if failing else "ok",
                "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in found],
            }
            return JSONResponse(body, status_code=503 if failing else 200)
        if failing:
            raise NotReady("; ".join(f"{c.name}: {c.detail}" for c in failing))
        return JSONResponse({"status": "ok"})

    @router.get("/metrics", summary="Prometheus, all workers together", response_class=Response)
    async def page() -> Response:
        return Response(await metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return router
