"""Answers `GET /stats`: what this host does and which alarms fire, over a window of time."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from funnelrank import __version__
from service.api.openapi import refuses
from service.api.routes.stats_answers import (
    SHED,
    AlarmFigures,
    ExposureLogFigures,
    Queue,
    ReasonCount,
    StatsResponse,
    StepCount,
    StoreState,
    Totals,
    VersionFigures,
    Window,
    WorkerCounts,
    counted,
    item_cache,
    latency,
    share,
    stages,
    traffic,
)
from service.api.services import Services, Worker
from service.errors import InvalidRequest
from service.metrics.alarms import FAILURES, Alarm, evaluated, rules
from service.metrics.families import Families
from service.metrics.figures import HistoryView, every, having, lacking
from service.rollout.serving import Role, ServingLine
from service.store.schemas import check_schema

router = APIRouter(tags=["health"])
_SHORTEST_S = 15
_LONGEST_S = 259_200
WindowSeconds = Annotated[
    int, Query(ge=_SHORTEST_S, le=_LONGEST_S, description="the seconds before now that the figures are of")
]


@router.get(
    "/stats", summary="Traffic, latency, versions, store and alarms of this host", responses=refuses(InvalidRequest)
)
async def stats(worker: Worker, window_s: WindowSeconds = 300) -> StatsResponse:
    """Figures of all workers of this host, from the same counters as `/metrics`."""
    families, history = await worker.metrics.observed()
    store = await _store(worker)
    return await asyncio.to_thread(
        _figures, worker, families, HistoryView(history, len(history.times) - 1), window_s, store
    )


async def _store(worker: Services) -> StoreState:
    live = worker.follower.live
    if live is None:
        return StoreState(reachable=False, detail="no model is loaded, so the store was not asked")
    state = await check_schema(worker.follower.reader, live.bundle.layouts)
    if not state.reachable:
        return StoreState(reachable=False, detail="Redis does not answer")
    return StoreState(reachable=True, detail=state.problem or ("Redis answers" if state.loaded else "Redis is empty"))


def _figures(
    worker: Services, families: Families, view: HistoryView, window_s: int, store: StoreState
) -> StatsResponse:
    of_window = traffic(view, window_s)
    rankings = int(view.total("rankings_total", window_s))
    return StatsResponse(
        service=__version__,
        at=datetime.now(UTC),
        window=Window(asked_s=window_s, covered_s=view.covered(window_s)),
        traffic=of_window,
        latency=latency(view, window_s),
        stages=stages(view, window_s),
        degraded=tuple(
            ReasonCount(reason=reason, n=n, share=share(n, rankings))
            for reason, n in counted(view, window_s, "degraded_total", "reason")
        ),
        brownouts=tuple(
            StepCount(step=step, n=n, share=share(n, rankings))
            for step, n in counted(view, window_s, "brownout_rankings_total", "step")
        ),
        versions=tuple(
            figures
            for line in worker.follower.snapshot.lines.values()
            for figures in _versions(line, view, window_s, len(worker.follower.snapshot.lines) > 1)
        ),
        workers=WorkerCounts(
            living=int(_gauge(families, "workers")),
            ready=int(_gauge(families, "ready_workers")),
        ),
        store=store,
        item_cache=item_cache(view, window_s, _gauge(families, "item_cache_bytes")),
        queue=Queue(
            in_work=int(_gauge(families, "inflight_requests")),
            most_in_work=2 * worker.settings.max_inflight * worker.settings.workers,
            connections=int(_gauge(families, "connections")),
        ),
        exposure_log=_exposure_log(worker, families, view, window_s),
        totals=_totals(view),
        alarms=_alarms(view, evaluated(view)),
    )


def _versions(line: ServingLine, view: HistoryView, window_s: int, several: bool) -> list[VersionFigures]:
    """The versions of a line that rank, with the rankings of their role."""
    # Without several lines, the series have no label `line`.
    of_line = having("line", line.name) if several else every
    grown = view.increase("rankings_total", window_s, of_line, ("role", "result"))
    whole = int(sum(grown.values()))
    figures = []
    for role in (Role.STABLE, Role.CANARY):
        live = line.in_role(role)
        if live is None:
            continue
        failed = int(grown.get((role.value, "failed"), 0.0))
        n = int(grown.get((role.value, "ok"), 0.0)) + failed
        figures.append(
            VersionFigures(
                line=line.name,
                role="stable" if role == Role.STABLE else "canary",
                name=live.target.name,
                version=live.target.version,
                percent=line.percent if role == Role.CANARY else None,
                n=n,
                failed=failed,
                share=share(n, whole),
            )
        )
    return figures


def _exposure_log(worker: Services, families: Families, view: HistoryView, window_s: int) -> ExposureLogFigures | None:
    if worker.log is None:
        return None
    name = "exposure_log_records_total"
    return ExposureLogFigures(
        queued=int(_gauge(families, "exposure_log_queued")),
        written=int(view.total(name, window_s, having("outcome", "written"))),
        lost=int(view.total(name, window_s, lacking("outcome", "written"))),
    )


def _totals(view: HistoryView) -> Totals:
    """Counts since the start: the newest values themselves."""
    return Totals(
        requests=view.value("requests_total"),
        rankings=view.value("rankings_total"),
        degraded=view.value("degraded_total"),
        shed=view.value("requests_total", having("outcome", SHED)),
        failed=view.value("requests_total", having("outcome", *FAILURES)),
    )


def _alarms(view: HistoryView, evaluated: Iterable[Alarm]) -> tuple[AlarmFigures, ...]:
    """The alert rules with their texts."""
    texts = rules()
    return tuple(
        AlarmFigures(
            name=alarm.name,
            severity=texts[alarm.name]["severity"],
            state=alarm.state.value,
            labels=dict(alarm.labels),
            value=alarm.value,
            limit=alarm.condition.limit,
            window_s=alarm.condition.windows,
            covered_s=tuple(view.covered(window_s) for window_s in alarm.condition.windows),
            for_s=texts[alarm.name]["for_s"],
            since_s=alarm.since_s,
            summary=texts[alarm.name]["summary"],
            action=texts[alarm.name]["action"],
        )
        for alarm in evaluated
    )


def _gauge(families: Families, name: str) -> float:
    """The sum of a gauge over its series."""
    family = families.get(f"funnelrank_{name}")
    return sum(value for _, _, value in family["samples"]) if family else 0.0
