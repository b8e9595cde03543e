"""Records the outcome of versions and documents: refusals for `GET /models`, counters, log lines."""

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from service.documents import now
from service.metrics.metrics import Metrics
from service.rollout.serving import SCHEMA_NOT_LOADED, Live, NotServing, Role, ServingLine, ServingSnapshot
from service.store.base import FeatureStore
from service.store.schemas import check_schema

log = logging.getLogger("funnelrank.live")
_REFUSALS_KEPT = 20


@dataclass(frozen=True)
class Refusal:
    """A version or a document that this worker refused, and why."""

    target: str
    code: str
    detail: str
    at: str


class RefusalLog:
    """The newest refusals of one worker. A target that is refused again for the same reason is recorded only once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.entries: deque[Refusal] = deque(maxlen=_REFUSALS_KEPT)
        self._codes: dict[str, str] = {}

    @property
    def last(self) -> Refusal | None:
        return self.entries[-1] if self.entries else None

    def record(self, target: str, code: str, detail: str, in_use: str) -> None:
        """Record, count and log a refusal; `in_use` is the version that goes on serving."""
        if self._codes.get(target) == code:
            return
        self._codes[target] = code
        self.entries.append(Refusal(target, code, detail, now()))
        self._metrics.swaps.labels(code).inc()
        log.error("refused %s: %s: %s", target, code, detail, extra={"fields": {"in_use": in_use}})

    def forget(self, target: str | None = None) -> None:
        """Forget the last refusal of a target (of every target if none is named), so that the next one is recorded
        again.
        """
        if target is None:
            self._codes.clear()
        else:
            self._codes.pop(target, None)

    def described(self) -> list[dict[str, Any]]:
        """The refusals as `GET /models` shows them, newest first."""
        return [{"model": r.target, "code": r.code, "detail": r.detail, "at": r.at} for r in reversed(self.entries)]


def record_change(before: ServingSnapshot, after: ServingSnapshot, metrics: Metrics) -> None:
    """Set the gauges for the versions in use, and log each version that is new in its role."""
    were = _versions(before)
    are = _versions(after)
    for labels in were - are:
        metrics.model_info.labels(*labels).set(0)
    for labels in are:
        metrics.model_info.labels(*labels).set(1)
    metrics.ready.set(0 if after.default.stable is None else 1)
    fall_back = _fall_back(after)
    # A series of a line that has ended, or that has another label now, would go on firing its alert.
    for label in _fall_back(before).keys() | fall_back.keys():
        metrics.fallback.labels(label).set(int(fall_back.get(label, False)))
    for name, line in after.lines.items():
        _log_changes(before.lines.get(name) or ServingLine(name), line)


def _fall_back(snapshot: ServingSnapshot) -> dict[str, bool]:
    """Whether another version than the stable one serves, by the label of the line."""
    several = len(snapshot.lines) > 1
    # The default line stands in for a line that has no version.
    return {
        name if several else "": several if line.stable is None else line.stable.instead_of != ""
        for name, line in snapshot.lines.items()
    }


def _log_changes(before: ServingLine, after: ServingLine) -> None:
    for role in Role:
        old = before.in_role(role)
        new = after.in_role(role)
        if new is None or (old is not None and old.bundle is new.bundle):
            continue
        suffix = "" if role == Role.STABLE else f" as {role}"
        if new.line:
            suffix += f" on line {new.line}"
        fields = {"fields": {"before": old.bundle.label if old else None}}
        log.info("model %s is in use%s", new.bundle.label, suffix, extra=fields)


def _versions(snapshot: ServingSnapshot) -> set[tuple[str, str, str, str]]:
    return {
        (live.bundle.manifest.name, live.bundle.manifest.version, live.role.value, live.line)
        for live in snapshot.loaded()
    }


async def why_not_serving(stable: Live | None, refusal: Refusal | None, store: FeatureStore) -> NotServing | None:
    """Return why a line cannot rank; None if it can.

    It cannot if it has no stable version (`refusal` is the newest refusal) or if the store holds another schema.
    """
    if stable is None:
        reason = f": {refusal.code}: {refusal.detail}" if refusal else " yet"
        return NotServing(f"no model is loaded{reason}")
    schema = await check_schema(store, stable.bundle.layouts)
    if schema.problem is None:
        return None
    return NotServing(f"{SCHEMA_NOT_LOADED}: {schema.problem}", SCHEMA_NOT_LOADED)
