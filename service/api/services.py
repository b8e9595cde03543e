"""Holds what the routes use of one worker, and gives it to them as a FastAPI dependency."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from service.api.live_writes import WriteTargets
from service.api.traces import Tracing
from service.callers.callers import Callers
from service.exposures.log import RecordLog
from service.metrics.metrics import Metrics
from service.ranking.admission import Admission
from service.ranking.exposure import ExposureLog
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.rollout.previews import Previews
from service.settings import Settings
from service.store.base import FeatureStore, FeatureWriter


class Lifecycle:
    """The state of this worker: whether it is about to stop."""

    def __init__(self) -> None:
        self.draining = False


@dataclass(frozen=True, eq=False)
class Log:
    """The exposure log of this worker: its queue of records, and the object that logs answered rankings."""

    records: RecordLog
    exposures: ExposureLog


@dataclass(frozen=True, eq=False)
class Services:
    """The parts of one worker.

    Rankings and live writes are admitted separately, so that slow writes do not cause refused rankings. `log` is None
    if there is no exposure log, `tracing` if no traces are sent.
    """

    settings: Settings
    metrics: Metrics
    callers: Callers
    follower: Follower
    reader: FeatureStore
    writer: FeatureWriter
    targets: WriteTargets
    ranker: Ranker
    rankings: Admission
    writes: Admission
    previews: Previews
    log: Log | None = None
    tracing: Tracing | None = None
    lifecycle: Lifecycle = field(default_factory=Lifecycle)


async def services_of(request: Request) -> Services:
    """The worker's parts, which the application keeps."""
    services: Services = request.app.state.services
    return services


Worker = Annotated[Services, Depends(services_of)]
