"""Owns how the parts come together: settings in, ASGI application out."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from funnelrank import __version__
from service import log as service_log
from service.api.events import event_routes
from service.api.features import feature_routes
from service.api.fusion import fusion_routes
from service.api.health import health_routes
from service.api.middleware import CONTEXT, Edge, Front, Lifecycle
from service.api.models import model_routes
from service.api.openapi import OPERATIONS, describe
from service.api.problems import (
    PROBLEM_TYPE,
    FrameworkError,
    HttpError,
    MethodNotAllowed,
    NotFound,
    envelope,
    presentation_of,
)
from service.api.rank import RankRoute
from service.fusion import read_profiles
from service.metrics.metrics import Metrics
from service.ranking.admission import Admission
from service.ranking.ranker import Ranker
from service.rollout.follower import Follower
from service.server.connection import READ_TIMEOUT
from service.server.runtime_folder import FOLDER_VARIABLE
from service.settings import Settings
from service.store.opening import open_store, open_writer

log = logging.getLogger("funnelrank")
_COLLECT_AFTER = (10_000, 10, 10)  # new objects; by default 700, which a few requests make
_SWITCH_SECONDS = 0.0005  # by default 0.005, which a ranking beside a load would wait several times over


def from_environment() -> ASGIApp:
    """What a worker process runs."""
    settings = Settings.from_environment()
    service_log.configure(settings.log_level)
    return create_app(settings)


def create_app(settings: Settings) -> ASGIApp:
    """The application. Raises FusionError for a fusion file that cannot be used; connects to nothing until it is started."""
    folder = os.environ.get(FOLDER_VARIABLE)
    metrics = Metrics(Path(folder) if folder else None)
    lifecycle = Lifecycle()
    admission = Admission(settings.max_inflight, settings.max_wait_ms / 1000)
    writes = Admission(settings.max_inflight, settings.max_wait_ms / 1000)
    metrics.tallies.also(lambda: metrics.inflight.set(admission.in_work + writes.in_work))
    cache_bytes = settings.item_cache_mb << 20
    reader = open_store(
        settings.redis_url.get_secret_value(), settings.redis_timeout_ms, cache_bytes, settings.item_cache_ttl_ms
    )
    metrics.tallies.also(lambda: metrics.item_cache.bring_over(reader.cache_counts()))
    writer = open_writer(settings.redis_url.get_secret_value(), settings.redis_timeout_ms)
    profiles = read_profiles(settings.fusion_file) if settings.fusion_file else None
    follower = Follower(settings, profiles, reader, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, float]]:
        metrics.workers.set(1)
        publishing = asyncio.create_task(metrics.publish())
        await follower.step()
        keep_pauses_short()
        following = asyncio.create_task(follower.follow())
        with drains_on_signal(lifecycle, settings.drain_ms):
            yield {READ_TIMEOUT: settings.read_timeout_ms / 1000}
        for task in (following, publishing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        follower.close()
        reader.close()
        await writer.close()
        metrics.close()

    app = FastAPI(
        title="funnelrank",
        version=__version__,
        description="Ranks candidates with a multi-task model.",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _http_error},
    )
    ranker = Ranker(follower, reader, metrics, settings.score_chunk)
    rank = RankRoute(ranker, settings, admission)
    app.router.routes.insert(0, Route("/rank", rank, methods=["POST"], include_in_schema=False))
    app.include_router(event_routes(follower, reader, writer, metrics, settings, writes))
    app.include_router(feature_routes(follower, reader, writer, metrics, settings, writes))
    app.include_router(fusion_routes(follower, settings))
    app.include_router(model_routes(follower, settings))
    app.include_router(health_routes(follower, lifecycle, metrics, settings))
    app.add_middleware(Edge, lifecycle=lifecycle, metrics=metrics)
    app.openapi = lambda: _described(app, settings)  # type: ignore[method-assign]
    return Front(app, {("POST", "/rank"): Edge(rank, lifecycle, metrics)})


def _described(app: FastAPI, settings: Settings) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = describe(app, settings.max_candidates)
    return app.openapi_schema


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals (no such path, wrong method) in the envelope of all errors."""
    assert isinstance(error, HTTPException)
    found: HttpError
    if error.status_code == 404:
        found = NotFound(f"there is nothing at {request.url.path}; /docs shows what there is")
    elif error.status_code == 405:
        # The framework names the methods of the first route that has the path; two routes may share it.
        allowed = sorted(method.upper() for method, path in OPERATIONS if path == request.url.path)
        headers = {"Allow": ", ".join(allowed)} if allowed else error.headers
        found = MethodNotAllowed(f"{request.method} is not possible at {request.url.path}", headers=headers)
    else:
        found = FrameworkError(error.status_code, str(error.detail), headers=error.headers)
    context = request.scope[CONTEXT]
    context.outcome = found.code
    presentation = presentation_of(found)
    return Response(
        envelope(found, context.request_id),
        status_code=presentation.status,
        headers=dict(presentation.headers),
        media_type=PROBLEM_TYPE,
    )


def keep_pauses_short() -> None:
    """What is there at the start stays for ever, so the collector need not go through it again and again while requests wait; and while a
    version is loaded beside them, the event loop gets the interpreter back at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)


@contextlib.contextmanager
def drains_on_signal(lifecycle: Lifecycle, drain_ms: int) -> Iterator[None]:
    """On SIGTERM or SIGINT let /readyz fail for `drain_ms` before the server stops listening, so that balancers look elsewhere first."""
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def drain(number: int, frame: FrameType | None) -> None:
        if lifecycle.draining and number == signal.SIGTERM:
            return
        wait = 0.0 if lifecycle.draining else drain_ms / 1000
        lifecycle.draining = True
        stop = before[signal.Signals(number)]
        loop.call_soon_threadsafe(loop.call_later, wait, stop, number, frame)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            found = signal.getsignal(number)
            if callable(found):
                before[number] = found
                signal.signal(number, drain)
    except ValueError:  # not the main thread: whoever runs the server there stops it in their own way
        before.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
