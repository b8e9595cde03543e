"""Decides which requests are traced, and describes these requests."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.types import Scope

from service.api.context import RequestContext
from service.ranking.query import Query, Ranking
from service.settings import Settings
from service.tracing.context import TraceContext
from service.tracing.marks import FinishedTrace, Marks, Value
from service.tracing.sender import TraceSender

# What machines ask every few seconds.
_NOT_TRACED: Final = frozenset(("/livez", "/readyz", "/metrics"))


class Tracing:
    """Decides after each request whether to send its trace. OpenTelemetry sees only those.

    A trace is sent if the caller or chance has sampled it, and always if the request failed, was degraded or was slow.
    """

    def __init__(self, settings: Settings, sender: TraceSender) -> None:
        self.share = settings.trace_share
        self._slow_seconds = settings.trace_slow_ms / 1000
        self._sender = sender

    def finished(self, scope: Scope, request: RequestContext, status: int, ended: float) -> None:
        """Keep the trace of a request, or drop it. `status` is 0 without an answer, `ended` a time of `monotonic`."""
        trace = request.trace
        marks = request.marks
        assert trace is not None
        assert marks is not None
        reason = self._reason_to_send(trace, ended - request.started, status, request.outcome)
        route = getattr(scope.get("route"), "path", "")
        if not reason or route in _NOT_TRACED:
            return
        # Attributes of the semantic conventions for HTTP servers, and our own.
        method = scope["method"]
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "funnelrank.request_id": request.request_id,
            "funnelrank.outcome": request.outcome,
            "funnelrank.kept": reason,
        }
        if route:
            attributes["http.route"] = route
        if status:
            attributes["http.response.status_code"] = status
        if marks.facts is not None:
            attributes |= marks.facts()
        error = request.outcome if status >= 500 else ""
        name = f"{method} {route}" if route else method
        self._sender.offer(FinishedTrace(name, trace, request.started, ended, marks.stages, attributes, error))

    def _reason_to_send(self, trace: TraceContext, seconds: float, status: int, outcome: str) -> str:
        """Return the reason to send a trace; empty if there is none."""
        if status >= 500:
            return "failed"
        if outcome == "degraded":
            return "degraded"
        if seconds >= self._slow_seconds:
            return "slow"
        return "sampled" if trace.sampled else ""


def note_ranking(marks: Marks, query: Query, ranking: Ranking) -> None:
    """Begin the last stage of a ranking, and let `marks` describe it if it is traced."""
    marks.begin("respond")
    marks.facts = partial(_facts_of, query, ranking)


def _facts_of(query: Query, ranking: Ranking) -> Mapping[str, Value]:
    """Describe a ranking without the ids of its user and items, which do not belong into a trace."""
    manifest = ranking.live.bundle.manifest
    facts: dict[str, Value] = {
        "funnelrank.model": manifest.name,
        "funnelrank.version": manifest.version,
        "funnelrank.role": ranking.live.role.value,
        "funnelrank.profile": ranking.formula.profile,
        "funnelrank.candidates": len(query.item_ids),
        "funnelrank.ranked": len(ranking.ranked.item_ids),
    }
    if query.options.scene is not None:
        facts["funnelrank.scene"] = query.options.scene
    if ranking.degraded:
        facts["funnelrank.degraded"] = [str(degradation) for degradation in ranking.degraded]
    if ranking.chosen is not None:
        facts["funnelrank.experiment"] = ranking.chosen.experiment
        facts["funnelrank.arm"] = ranking.chosen.arm
    return facts
