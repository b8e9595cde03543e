"""Answers `GET /livez`, `GET /readyz` and `GET /metrics`, and HEAD and OPTIONS at the same paths."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.fields import ResponseBody
from service.api.openapi import reference, refuses
from service.api.services import Services, Worker
from service.errors import NotReady
from service.store.schemas import check_schema

router = APIRouter(tags=["health"])
_ALLOWED = "GET, HEAD, OPTIONS"


class Liveness(ResponseBody):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyCheck(ResponseBody):
    """One condition that this worker needs to take traffic."""

    name: str
    ok: bool
    detail: str


class Readiness(ResponseBody):
    """Whether this worker takes traffic; with `?verbose` also every check, even if one fails (503)."""

    status: Literal["ok", "failing"] = "ok"
    checks: tuple[ReadyCheck, ...] = ()


_VERBOSE = {
    "name": "verbose",
    "in": "query",
    "required": False,
    "allowEmptyValue": True,
    "schema": {"type": "string"},
    "description": "list every check",
}
_READINESS = refuses(NotReady)
_READINESS[503]["content"]["application/json"] = {"schema": reference(Readiness)}


@router.get("/livez", summary="Whether the process lives; never asks Redis")
async def livez() -> Liveness:
    """Answers as long as the event loop runs."""
    return Liveness()


@router.get(
    "/readyz",
    summary="Whether this worker takes traffic; ?verbose lists every check",
    response_model=Readiness,
    response_model_exclude_unset=True,
    responses=_READINESS,
    openapi_extra={"parameters": [_VERBOSE]},
)
async def readyz(request: Request, worker: Worker) -> Readiness | Response:
    """Asks the store now."""
    checks = await ready_checks(worker)
    failing = [check for check in checks if not check.ok]
    if "verbose" in request.query_params:
        readiness = Readiness(status="failing" if failing else "ok", checks=tuple(checks))
        return JSONResponse(readiness.model_dump(mode="json"), status_code=503 if failing else 200)
    if failing:
        raise NotReady("; ".join(f"{check.name}: {check.detail}" for check in failing))
    return Readiness(status="ok")


@router.get("/metrics", summary="Prometheus, all workers together", response_class=PlainTextResponse)
async def metrics(worker: Worker) -> Response:
    """The text format of Prometheus."""
    return Response(await worker.metrics.page(), media_type=CONTENT_TYPE_LATEST)


# The server leaves out the body of an answer to HEAD.
router.add_api_route("/livez", livez, methods=["HEAD"], include_in_schema=False)
router.add_api_route("/readyz", readyz, methods=["HEAD"], response_model=None, include_in_schema=False)
router.add_api_route("/metrics", metrics, methods=["HEAD"], include_in_schema=False)


@router.options("/livez", include_in_schema=False)
@router.options("/readyz", include_in_schema=False)
@router.options("/metrics", include_in_schema=False)
async def options() -> Response:
    """The methods of a health route."""
    return Response(status_code=204, headers={"Allow": _ALLOWED})


async def ready_checks(worker: Services) -> list[ReadyCheck]:
    """All checks; that of the store asks it now."""
    # The process
    follower = worker.follower
    draining = worker.lifecycle.draining
    checks = [ReadyCheck(name="draining", ok=not draining, detail="the service is stopping" if draining else "no")]
    # The model
    live = follower.live
    if live is None:
        last = follower.refusals.last
        detail = f"{last.target}: {last.code}: {last.detail}" if last else "not loaded yet"
        return [*checks, ReadyCheck(name="model", ok=False, detail=detail)]
    instead_of = f", because {live.instead_of}" if live.instead_of else ""
    detail = f"{live.bundle.label} is loaded and warmed{instead_of}"
    checks.append(ReadyCheck(name="model", ok=True, detail=detail))
    # The registry in an object store. Rankings go on without it.
    problem = follower.copy_problem
    if problem is not None:
        detail = f"the last state is served: {problem}" if problem else "the object store answers"
        checks.append(ReadyCheck(name="registry", ok=True, detail=detail))
    # The store
    store = await check_schema(follower.reader, live.bundle.layouts)
    if not store.reachable:
        allowed = worker.settings.allow_degraded_ready
        detail = "Redis does not answer"
        if allowed:
            detail += "; rankings are degraded, which is allowed"
        checks.append(ReadyCheck(name="store", ok=allowed, detail=detail))
    elif store.problem is not None:
        checks.append(ReadyCheck(name="schema", ok=False, detail=f"schema_not_loaded: {store.problem}"))
    else:
        detail = "Redis answers" if store.loaded else "Redis answers and is empty"
        checks.append(ReadyCheck(name="store", ok=True, detail=detail))
    return checks
