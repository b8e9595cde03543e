"""Composes the application from the settings. It reads from top to bottom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.types import ASGIApp

from funnelrank import __version__
from service import log as service_log
from service.api.application import build
from service.api.live_writes import WriteTargets
from service.api.services import Lifecycle, Services
from service.api.traces import Tracing
from service.callers.callers import Callers
from service.fusion import read_profiles
from service.metrics.metrics import Metrics
from service.ranking.admission import Admission
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.rollout.previews import Previews
from service.server.exposure_log import open_log
from service.server.lifespan import background_work
from service.server.protocol.connections import CONNECTIONS, Connections
from service.server.start import WorkerStart
from service.settings import Settings
from service.store.opening import lifetimes_of, open_store, open_writer
from service.tracing.opening import open_sender


def from_environment() -> ASGIApp:
    """Build the application for a server that is started without `serve`, as in the benchmarks. Raises FusionError."""
    settings = Settings.from_environment()
    service_log.configure(settings.log_level)
    return build_app(WorkerStart(settings, read_profiles(settings.fusion_file) if settings.fusion_file else None))


def build_app(start: WorkerStart) -> ASGIApp:
    """Build the application of one worker. It opens no connection until it is started."""
    settings = start.settings
    lifecycle = Lifecycle()
    metrics = Metrics(start.folder)

    # The store
    redis_url = settings.redis_url.get_secret_value()
    cache_bytes = settings.item_cache_mb << 20
    reader = open_store(
        redis_url, settings.redis_timeout_ms, cache_bytes, settings.item_cache_ttl_ms, settings.redis_replica_lag_ms
    )
    writer = open_writer(redis_url, settings.redis_timeout_ms, lifetimes_of(settings))

    def bring_over_store() -> None:
        counts = reader.cache_counts()
        metrics.item_cache.bring_over(counts)
        metrics.replicas.bring_over(counts)

    metrics.tallies.also(bring_over_store)

    # The callers, if there is a document
    callers = Callers(settings, writer, metrics)

    # The live versions, and the ranker
    follower = Follower(settings, start.profiles, reader, metrics, start.hashes)
    ranker = Ranker(follower, reader, metrics, settings.score_chunk, start.page_key)

    # Admission. Slow writes do not count against rankings.
    rankings = Admission(settings.max_inflight, settings.max_wait_ms / 1000, brownout=settings.brownout)
    writes = Admission(settings.max_inflight, settings.max_wait_ms / 1000)
    metrics.tallies.also(lambda: metrics.inflight.set(rankings.in_work + writes.in_work))

    # The exposure log, if there is one
    log = open_log(settings, metrics) if settings.log_folder else None

    # The traces, if there is an endpoint
    endpoint = settings.otlp_endpoint
    sender = open_sender(endpoint, __version__, metrics.traces) if endpoint else None

    services = Services(
        settings=settings,
        metrics=metrics,
        callers=callers,
        follower=follower,
        reader=reader,
        writer=writer,
        targets=WriteTargets(follower, reader),
        ranker=ranker,
        rankings=rankings,
        writes=writes,
        previews=Previews(follower),
        log=log,
        tracing=Tracing(settings, sender) if sender is not None else None,
        lifecycle=lifecycle,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Connections]]:
        if log is not None:
            log.records.start()
        if sender is not None:
            sender.start()
        async with background_work(settings, follower, callers, lifecycle, metrics):
            yield {CONNECTIONS: Connections(settings, metrics)}
        if log is not None:
            await asyncio.to_thread(log.records.close)
        if sender is not None:
            await asyncio.to_thread(sender.close)
        reader.close()
        await writer.close()

    return build(services, lifespan, __version__)
