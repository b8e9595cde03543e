"""Defines the answer of `GET /stats`, and computes its figures from the history of the metrics."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from service.api.fields import ResponseBody
from service.metrics.alarms import FAILURES
from service.metrics.figures import HistoryView, Latency, having
from service.metrics.metrics import STAGES

_QUANTILES = (0.5, 0.95, 0.99)
SHED = "overloaded"
Share = Annotated[float | None, Field(description="null if there was nothing to count")]
Milliseconds = Annotated[float | None, Field(description="null without observations")]


class Window(ResponseBody):
    """The time that the figures are of. Soon after the start it is shorter than asked for."""

    asked_s: float
    covered_s: float


class Traffic(ResponseBody):
    """Rankings by outcome. `shed` were refused because of overload; `failed` count against the objective."""

    n: int
    per_second: float
    shed: int
    failed: int
    failed_share: Share
    outcomes: dict[str, int]


class LatencyFigures(ResponseBody):
    """Times of `n` observations. Quantiles are interpolated in the histogram's buckets."""

    n: int
    mean_ms: Milliseconds
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds


class StageFigures(LatencyFigures):
    """Times of one stage of a ranking."""

    stage: str


class ReasonCount(ResponseBody):
    """Degraded rankings by reason. A ranking may have several reasons."""

    reason: str
    n: int
    share: Share


class StepCount(ResponseBody):
    """Rankings by the step of a brown-out."""

    step: str
    n: int
    share: Share


class VersionFigures(ResponseBody):
    """Rankings of one version that ranks. Those of an earlier version in its role are included."""

    line: str
    role: Literal["stable", "canary"]
    name: str
    version: str
    percent: Annotated[float | None, Field(description="of the users, for a canary")]
    n: int
    failed: int
    share: Share


class WorkerCounts(ResponseBody):
    """Living worker processes of this host, and those with a model."""

    living: int
    ready: int


class StoreState(ResponseBody):
    """Whether the store answered just now."""

    reachable: bool
    detail: str


class ItemCacheFigures(ResponseBody):
    """Lookups of item rows, `n` of them; the memory is that of all workers now."""

    n: int
    hits: int
    hit_share: Share
    evictions: int
    invalidations: int
    bytes: int


class Queue(ResponseBody):
    """Requests in work now, over all workers, and the most that they take."""

    in_work: int
    most_in_work: int
    connections: int


class ExposureLogFigures(ResponseBody):
    """Records of the exposure log."""

    queued: int
    written: int
    lost: int


class Totals(ResponseBody):
    """Counts since the service was started, as `/metrics` has them; requests are those of `/rank`."""

    requests: int
    rankings: int
    degraded: int
    shed: int
    failed: int


class AlarmFigures(ResponseBody):
    """An alert rule, evaluated on this host. `value` is that of the worst labels; null without samples."""

    name: str
    severity: str
    state: Literal["ok", "pending", "firing"]
    labels: dict[str, str]
    value: float | None
    limit: float
    window_s: tuple[float, ...]
    covered_s: tuple[float, ...]
    for_s: float
    since_s: float | None
    summary: str
    action: str


class StatsResponse(ResponseBody):
    """What one host does. Figures of all its workers, over the window unless their description says otherwise."""

    service: str
    at: AwareDatetime
    window: Window
    traffic: Traffic
    latency: LatencyFigures
    stages: tuple[StageFigures, ...]
    degraded: tuple[ReasonCount, ...]
    brownouts: tuple[StepCount, ...]
    versions: tuple[VersionFigures, ...]
    workers: WorkerCounts
    store: StoreState
    item_cache: ItemCacheFigures
    queue: Queue
    exposure_log: ExposureLogFigures | None
    totals: Totals
    alarms: tuple[AlarmFigures, ...]


def traffic(view: HistoryView, window_s: float) -> Traffic:
    """Rankings of the window by outcome."""
    grown = view.increase("requests_total", window_s, by=("outcome",))
    outcomes = {outcome: int(count) for (outcome,), count in sorted(grown.items()) if count}
    n = sum(outcomes.values())
    failed = sum(outcomes.get(outcome, 0) for outcome in FAILURES)
    seconds = view.covered(window_s)
    return Traffic(
        n=n,
        per_second=n / seconds if seconds else 0.0,
        shed=outcomes.get(SHED, 0),
        failed=failed,
        failed_share=share(failed, n),
        outcomes=outcomes,
    )


def latency(view: HistoryView, window_s: float) -> LatencyFigures:
    """Times of whole rankings."""
    return LatencyFigures(**_milliseconds(view.latency("request_duration_seconds", window_s, _QUANTILES)))


def stages(view: HistoryView, window_s: float) -> tuple[StageFigures, ...]:
    """Times of the stages of a ranking, in their order."""
    of_stages = (
        (stage, view.latency("stage_duration_seconds", window_s, _QUANTILES, having("stage", stage)))
        for stage in STAGES
    )
    return tuple(StageFigures(stage=stage, **_milliseconds(measured)) for stage, measured in of_stages)


def counted(view: HistoryView, window_s: float, name: str, label: str) -> list[tuple[str, int]]:
    """The counts of a window by one label, the largest first."""
    grown = view.increase(name, window_s, by=(label,))
    counts = [(value, int(count)) for (value,), count in grown.items() if count]
    return sorted(counts, key=lambda entry: (-entry[1], entry[0]))


def item_cache(view: HistoryView, window_s: float, size: float) -> ItemCacheFigures:
    """What the caches of item rows did in the window; `size` is their memory in bytes."""
    hits = int(view.total("item_cache_hits_total", window_s))
    n = hits + int(view.total("item_cache_misses_total", window_s))
    return ItemCacheFigures(
        n=n,
        hits=hits,
        hit_share=share(hits, n),
        evictions=int(view.total("item_cache_evictions_total", window_s)),
        invalidations=int(view.total("item_cache_invalidations_total", window_s)),
        bytes=int(size),
    )


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _milliseconds(measured: Latency) -> dict[str, Any]:
    names = ("mean_ms", "p50_ms", "p95_ms", "p99_ms")
    values = (measured.mean, *measured.quantiles)
    seconds = dict(zip(names, values, strict=True))
    return {"n": measured.n} | {name: None if value is None else 1000 * value for name, value in seconds.items()}
