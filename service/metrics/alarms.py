"""Evaluates the alert rules of deploy/prometheus/rules.yaml on the history of one host, without Prometheus.

`alarms.json` has the rules' texts and is written from the rule file by `python -m tools.alerts`; the conditions are
here. Tests replay the cases with which promtool tests the rules. FunnelrankDown is left out: a service that is down
does not answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Any

import orjson

from service.metrics.figures import ByLabels, HistoryView, every, having, lacking
from service.metrics.history import STEP_SECONDS

# The outcomes of rankings that count against the objective.
FAILURES = (
    "overloaded",
    "deadline_exceeded",
    "internal_error",
    "not_ready",
    "schema_not_loaded",
    "store_unavailable",
)
_OBJECTIVE = 0.001  # the share of rankings that may fail


class AlarmState(StrEnum):
    """`pending`: the condition holds, but not yet for as long as the rule asks."""

    OK = "ok"
    PENDING = "pending"
    FIRING = "firing"


@dataclass(frozen=True)
class AlertCondition:
    """A rule's condition: `measure` of every window is above `limit`. The values are by the labels `by`."""

    measure: Callable[[HistoryView, float], ByLabels]
    windows: tuple[float, ...] = (0.0,)
    limit: float = 0.0
    by: tuple[str, ...] = ()

    def values(self, view: HistoryView) -> ByLabels:
        """The smallest value over the windows, by labels."""
        of_windows = [self.measure(view, window_s) for window_s in self.windows]
        return {group: min(values.get(group, 0.0) for values in of_windows) for group in of_windows[0]}


@dataclass(frozen=True)
class Alarm:
    """A rule at one moment: its worst value, that value's labels, and since when its condition has held (seconds)."""

    name: str
    state: AlarmState
    condition: AlertCondition
    labels: Mapping[str, str]
    value: float | None
    since_s: float | None


def _share(*outcomes: str) -> Callable[[HistoryView, float], ByLabels]:
    """The share of the rankings with these outcomes."""

    def measure(view: HistoryView, window_s: float) -> ByLabels:
        rankings = view.total("requests_total", window_s)
        some = view.total("requests_total", window_s, having("outcome", *outcomes))
        return {(): some / rankings} if rankings else {}

    return measure


def _rate(name: str, matches: Any = every, by: tuple[str, ...] = ()) -> Callable[[HistoryView, float], ByLabels]:
    return lambda view, window_s: view.rate(name, window_s, matches, by)


def _increase(name: str, matches: Any = every, by: tuple[str, ...] = ()) -> Callable[[HistoryView, float], ByLabels]:
    return lambda view, window_s: view.increase(name, window_s, matches, by)


def _gauge(name: str, by: tuple[str, ...]) -> Callable[[HistoryView, float], ByLabels]:
    return lambda view, _: view.gauge(name, by)


def _without_model(view: HistoryView, _: float) -> ByLabels:
    workers = view.gauge("workers")
    ready = view.gauge("ready_workers")
    return {(): workers[()] - ready.get((), 0.0)} if workers else {}


def _restarts(view: HistoryView, window_s: float) -> ByLabels:
    return {(): float(view.changes("workers", window_s))}


_REASON = ("reason",)
_CUT = "connections_cut_total"
CONDITIONS: Mapping[str, AlertCondition] = {
    "FunnelrankFailingFast": AlertCondition(_share(*FAILURES), (3600, 300), 14.4 * _OBJECTIVE),
    "FunnelrankFailing": AlertCondition(_share(*FAILURES), (21_600, 1800), 6 * _OBJECTIVE),
    "FunnelrankFailingSlowly": AlertCondition(_share(*FAILURES), (259_200, 21_600), _OBJECTIVE),
    "FunnelrankWorkerWithoutModel": AlertCondition(_without_model),
    "FunnelrankWorkersRestart": AlertCondition(_restarts, (900,), 4),
    "FunnelrankConnectionsExhausted": AlertCondition(
        _rate(_CUT, having("reason", "idle", "refused"), _REASON), (300,), 0, _REASON
    ),
    "FunnelrankSlowReaders": AlertCondition(_rate(_CUT, having("reason", "slow_reader")), (900,), 0.1),
    "FunnelrankOverloaded": AlertCondition(_rate("requests_total", having("outcome", "overloaded")), (300,)),
    "FunnelrankDeadlinesMissed": AlertCondition(_share("deadline_exceeded"), (300,), 0.01),
    "FunnelrankCallersLeave": AlertCondition(_share("client_gone"), (300,), 0.01),
    "FunnelrankModelFails": AlertCondition(
        _rate("rankings_total", having("result", "failed"), ("role",)), (300,), 0, ("role",)
    ),
    "FunnelrankStoreUnavailable": AlertCondition(
        _rate("degraded_total", having("reason", "store_unavailable")), (300,)
    ),
    "FunnelrankVersionRefused": AlertCondition(
        _increase("model_swaps_total", lacking("result", "taken"), ("result",)), (600,), 0, ("result",)
    ),
    "FunnelrankVersionWithdrawn": AlertCondition(
        _increase("automatic_rollbacks_total", every, ("role",)), (600,), 0, ("role",)
    ),
    "FunnelrankServingFallback": AlertCondition(_gauge("serving_fallback", ("line",)), by=("line",)),
    "FunnelrankDocumentUnreadable": AlertCondition(_gauge("document_unreadable", ("document",)), by=("document",)),
    "FunnelrankShadowDiffers": AlertCondition(_gauge("shadow_score_psi", ("task",)), limit=0.25, by=("task",)),
    "FunnelrankExposureLogLoses": AlertCondition(
        _increase("exposure_log_records_total", lacking("outcome", "written"), ("outcome",)), (600,), 0, ("outcome",)
    ),
    "FunnelrankExposureLogRemoved": AlertCondition(_increase("exposure_log_files_removed_total"), (600,)),
}


@lru_cache(maxsize=1)
def rules() -> Mapping[str, Mapping[str, Any]]:
    """The rules by name: `severity`, `for_s`, `summary`, `action`."""
    text = files("service.metrics").joinpath("alarms.json").read_bytes()
    read: Mapping[str, Mapping[str, Any]] = orjson.loads(text)
    return read


def evaluated(view: HistoryView) -> list[Alarm]:
    """Every rule as of the newest sample, in the order of the rule file."""
    return [_evaluated(name, CONDITIONS[name], rule["for_s"], view) for name, rule in rules().items()]


def _evaluated(name: str, condition: AlertCondition, for_s: float, view: HistoryView) -> Alarm:
    values = condition.values(view)
    worst = max(values, key=values.__getitem__, default=None)
    if worst is None:
        return Alarm(name, AlarmState.OK, condition, {}, None, None)
    labels = {label: text for label, text in zip(condition.by, worst, strict=True) if text}
    value = values[worst]
    if not value > condition.limit:
        return Alarm(name, AlarmState.OK, condition, labels, value, None)
    since_s = _since(condition, worst, view, for_s)
    # Samples have a distance, so that the first one of the time asked for may be a little younger.
    state = AlarmState.FIRING if since_s >= for_s - STEP_SECONDS or not for_s else AlarmState.PENDING
    return Alarm(name, state, condition, labels, value, since_s)


def _since(condition: AlertCondition, group: tuple[str, ...], view: HistoryView, for_s: float) -> float:
    """For how many seconds a condition has held without a break; the search ends a little beyond `for_s`."""
    since = view.time
    for place in range(view.place - 1, -1, -1):
        earlier = view.as_of(place)
        if view.time - since > for_s or not condition.values(earlier).get(group, 0.0) > condition.limit:
            break
        since = earlier.time
    return view.time - since
