"""Builds the HTTP application of one worker from its routes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access.cross_origin import CrossOrigin
from service.api.context import CONTEXT
from service.api.middleware import RequestMiddleware
from service.api.openapi import describe
from service.api.problems import (
    PROBLEM_TYPE,
    FrameworkError,
    HttpError,
    MethodNotAllowed,
    NotFound,
    envelope,
    presentation_of,
)
from service.api.routes import (
    callers,
    console,
    docs,
    events,
    features,
    fusion,
    health,
    impressions,
    model,
    models,
    preview,
    quality,
    rank_preview,
    rollout,
    rules,
    stats,
    store,
)
from service.api.routes.rank import RankRoute
from service.api.services import Services
from service.errors import invalid

ROUTERS: Final = (
    events.router,
    impressions.router,
    features.router,
    fusion.router,
    rules.router,
    models.router,
    model.router,
    rollout.router,
    callers.router,
    quality.router,
    preview.router,
    rank_preview.router,
    stats.router,
    store.router,
    health.router,
)
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]


def build(services: Services, lifespan: Lifespan, version: str) -> ASGIApp:
    """The application. One line per router; `POST /rank` is registered once and bypasses FastAPI."""
    app = FastAPI(
        title="funnelrank",
        version=version,
        description="Ranks candidates with a multi-task model.",
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _framework_error, RequestValidationError: _bad_parameters},
    )
    # The routes find the worker's parts here, through a dependency.
    app.state.services = services
    rank = RankRoute(services)
    app.router.routes.append(rank)
    # The routes themselves, not `include_router`: /openapi.json and the Allow header read one flat list.
    for router in (*ROUTERS, docs.router, console.router):
        app.router.routes.extend(router.routes)
    app.add_middleware(RequestMiddleware, services=services)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    whole: ASGIApp = Bypass(app, rank, RequestMiddleware(rank.app, services))
    if services.settings.cors_origins:
        origins = frozenset(services.settings.cors_origins)
        whole = CrossOrigin(whole, origins, lambda path: methods_of(app, path), services.metrics)
    return whole


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app)
    return app.openapi_schema


class Bypass:
    """Sends one route straight to `direct`; everything else goes to `app`.

    FastAPI's layers and its search for the route would cost as much as all checks of a ranking request.
    """

    def __init__(self, app: ASGIApp, route: RankRoute, direct: ASGIApp) -> None:
        self.app = app
        self.route = route
        self.direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == self.route.path and scope["method"] in self.route.methods:
            scope["route"] = self.route
            await self.direct(scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _bad_parameters(request: Request, error: Exception) -> Response:
    """Refuses a path or query parameter that is not valid, as a body that is not."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    raise invalid(str(first["loc"][-1]), first["msg"])


async def _framework_error(request: Request, error: Exception) -> Response:
    """Reports errors of the framework itself (no such path, wrong method) in the same envelope as all other errors."""
    assert isinstance(error, HTTPException)
    refusal: HttpError
    if error.status_code == 404:
        refusal = NotFound(f"there is nothing at {request.url.path}; /docs shows what there is")
    elif error.status_code == 405:
        # The framework names only the methods of the first route with this path; several routes may share a path.
        headers = {"Allow": ", ".join(sorted(methods_of(request.app, request.url.path)))}
        refusal = MethodNotAllowed(f"{request.method} is not possible at {request.url.path}", headers=headers)
    else:
        refusal = FrameworkError(error.status_code, str(error.detail), headers=error.headers)
    context = request.scope[CONTEXT]
    context.outcome = refusal.code
    presentation = presentation_of(refusal)
    return Response(
        envelope(refusal, context.request_id),
        status_code=presentation.status,
        headers=dict(presentation.headers),
        media_type=PROBLEM_TYPE,
    )


def methods_of(app: FastAPI, path: str) -> set[str]:
    """The methods of all routes at a path, which may be that of a template, as `/store/items/7`."""
    methods: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            methods |= route.methods or set()
    return methods
