"""Composes the application: settings in, ASGI application out. It reads from top to bottom."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from funnelrank import __version__
from service import log as service_log
from service.api.events import event_routes
from service.api.features import feature_routes
from service.api.framework_errors import framework_error
from service.api.fusion import fusion_routes
from service.api.health import health_routes
from service.api.middleware import Edge, Front, Lifecycle
from service.api.models import model_routes
from service.api.openapi import describe
from service.api.rank import RankRoute
from service.fusion import read_profiles
from service.metrics.metrics import Metrics
from service.ranking.admission import Admission
from service.ranking.ranker import Ranker
from service.rollout.follower import Follower
from service.server.connection import READ_TIMEOUT
from service.server.lifespan import running
from service.server.start import WorkerStart
from service.settings import Settings
from service.store.opening import open_store, open_writer


def from_environment() -> ASGIApp:
    """The application of a server that is started without `serve`, as in the benchmarks. Raises FusionError."""
    settings = Settings.from_environment()
    service_log.configure(settings.log_level)
    return build_app(WorkerStart(settings, read_profiles(settings.fusion_file) if settings.fusion_file else None))


def build_app(start: WorkerStart) -> ASGIApp:
    """The application of one worker. It connects to nothing until it is started."""
    settings = start.settings
    lifecycle = Lifecycle()
    metrics = Metrics(start.folder)

    # The store
    redis_url = settings.redis_url.get_secret_value()
    cache_bytes = settings.item_cache_mb << 20
    reader = open_store(redis_url, settings.redis_timeout_ms, cache_bytes, settings.item_cache_ttl_ms)
    writer = open_writer(redis_url, settings.redis_timeout_ms)
    metrics.tallies.also(lambda: metrics.item_cache.bring_over(reader.cache_counts()))

    # What is live, and how it ranks
    follower = Follower(settings, start.profiles, reader, metrics)
    ranker = Ranker(follower, reader, metrics, settings.score_chunk)

    # How much is in work at once
    admission = Admission(settings.max_inflight, settings.max_wait_ms / 1000)
    writes = Admission(settings.max_inflight, settings.max_wait_ms / 1000)
    metrics.tallies.also(lambda: metrics.inflight.set(admission.in_work + writes.in_work))

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, float]]:
        async with running(settings, follower, lifecycle, metrics):
            yield {READ_TIMEOUT: settings.read_timeout_ms / 1000}
        reader.close()
        await writer.close()

    app = FastAPI(
        title="funnelrank",
        version=__version__,
        description="Ranks candidates with a multi-task model.",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: framework_error},
    )
    app.openapi = lambda: _described(app, settings)  # type: ignore[method-assign]

    # Routes
    rank = RankRoute(ranker, settings, admission)
    app.router.routes.insert(0, Route("/rank", rank, methods=["POST"], include_in_schema=False))
    app.include_router(event_routes(follower, reader, writer, metrics, settings, writes))
    app.include_router(feature_routes(follower, reader, writer, metrics, settings, writes))
    app.include_router(fusion_routes(follower, settings))
    app.include_router(model_routes(follower, settings))
    app.include_router(health_routes(follower, lifecycle, metrics, settings))

    # Every request passes through Edge once; a ranking bypasses FastAPI.
    app.add_middleware(Edge, lifecycle=lifecycle, metrics=metrics)
    return Front(app, {("POST", "/rank"): Edge(rank, lifecycle, metrics)})


def _described(app: FastAPI, settings: Settings) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app, settings.max_candidates)
    return app.openapi_schema
