"""Passes every answered ranking to the observers: recent requests, the shadow, the canary watch.

An observer that fails does not make the ranking fail.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.metrics.metrics import Metrics
from service.rollout.observing.canary import CanaryWatch
from service.rollout.observing.shadow import Shadow, ShadowJob
from service.rollout.recent import Assembly, RecentRequests
from service.rollout.serving import Live, Role, ServingLine, ServingSnapshot

log = logging.getLogger("funnelrank.observers")


# Not frozen: a frozen object costs three times as much to make, and every ranking makes one.
@dataclass(slots=True, eq=False)
class AnsweredRanking:
    """The result of one request, scored by the version `live` of the request's line and fused by a profile.

    `request` is None if the deadline passed before its inputs were assembled; `predictions` `[tasks, C]` and `scores`
    `[C]` are None if it passed before they were computed. `failed` says whether a candidate has no score.
    """

    line: ServingLine
    live: Live
    profile: str
    request: Assembly | None = None
    predictions: np.ndarray | None = None
    scores: np.ndarray | None = None
    failed: bool = True


@dataclass(frozen=True, eq=False)
class LineObservers:
    """The observers of one line, which has or had a canary or a shadow."""

    shadow: Shadow
    canary: CanaryWatch

    def stop(self) -> None:
        """End the threads without waiting for them."""
        self.shadow.follow(None)
        self.shadow.thread.stop()
        self.canary.thread.stop()


class Observers:
    """Shows computed rankings to the canary watch, the shadow and the recent requests. Call `answered`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.recent = RecentRequests()
        self._lines: dict[str, LineObservers] = {}
        self._reported = False

    def answered(self, ranking: AnsweredRanking) -> None:
        """Count a ranking and show it to the observers. Never raises and never waits."""
        live = ranking.live
        line = ranking.line
        self._metrics.rankings.inc(live.line, live.role, "failed" if ranking.failed else "ok")
        if ranking.request is None:
            return
        if ranking.scores is not None:
            self.recent.add(ranking.request, line.name)
        # Usually there is neither a shadow nor a canary.
        if line.shadow is not None:
            self._guarded(self._offer_to_shadow, ranking)
        if line.canary is not None:
            self._guarded(self._offer_to_canary, ranking)

    def follow(self, snapshot: ServingSnapshot) -> None:
        """Observe the versions of this snapshot from now on."""
        for name, line in snapshot.lines.items():
            of_line = self._lines.get(name)
            if of_line is None:
                if line.canary is None and line.shadow is None:
                    continue
                of_line = self._lines[name] = LineObservers(Shadow(self._metrics), CanaryWatch())
            of_line.shadow.follow(line.shadow)
            of_line.shadow.thread.share = line.limits.shadow_share
            of_line.canary.follow(line.canary, line.stable, line.limits.shadow_share)
        for name in self._lines.keys() - snapshot.lines.keys():
            self._lines.pop(name).stop()
        self.recent.keep(snapshot.lines)

    def verdict(self, line: ServingLine) -> str | None:
        """The limit that the canary of a line breaks; None if it breaks none or the line has no canary."""
        of_line = self._lines.get(line.name)
        return of_line.canary.verdict(line.limits) if of_line is not None else None

    def close(self) -> None:
        """End the threads of the observers."""
        for of_line in self._lines.values():
            of_line.shadow.thread.close()
            of_line.canary.thread.close()

    def _guarded(self, observe: Callable[[AnsweredRanking], None], ranking: AnsweredRanking) -> None:
        try:
            observe(ranking)
        except Exception:
            # The ranking itself is right. One traceback is enough, because every ranking would log the same one.
            if not self._reported:
                self._reported = True
                log.exception("a ranking could not be observed")

    def _offer_to_shadow(self, ranking: AnsweredRanking) -> None:
        shadow = ranking.line.shadow
        live = ranking.live
        request = ranking.request
        if shadow is None or live.role != Role.STABLE or request is None:
            return
        if ranking.predictions is None or ranking.scores is None:
            return
        if shadow.bundle.layouts.inputs_fingerprint != live.bundle.layouts.inputs_fingerprint:
            return
        formula = shadow.fusion.formulas.get(ranking.profile)
        # The line of a ranking may have ended while it was made.
        of_line = self._lines.get(ranking.line.name)
        if formula is not None and of_line is not None:
            job = ShadowJob(shadow, formula, request.inputs, live.bundle, ranking.predictions, ranking.scores)
            of_line.shadow.offer(job)

    def _offer_to_canary(self, ranking: AnsweredRanking) -> None:
        request = ranking.request
        of_line = self._lines.get(ranking.line.name)
        if request is not None and of_line is not None:
            of_line.canary.offer(ranking.live.bundle, request.user_id, request.inputs, request.own_features)
