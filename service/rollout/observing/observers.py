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
from service.rollout.serving import Live, Role, ServingSnapshot

log = logging.getLogger("funnelrank.observers")


# Not frozen: a frozen object costs three times as much to make, and every ranking makes one.
@dataclass(slots=True, eq=False)
class AnsweredRanking:
    """The result of one request, scored by the version `live` of the request's snapshot and fused by a profile.

    `request` is None if the deadline passed before its inputs were assembled; `predictions` `[tasks, C]` and `scores`
    `[C]` are None if it passed before they were computed. `failed` says whether a candidate has no score.
    """

    snapshot: ServingSnapshot
    live: Live
    profile: str
    request: Assembly | None = None
    predictions: np.ndarray | None = None
    scores: np.ndarray | None = None
    failed: bool = True


class Observers:
    """Shows computed rankings to the canary watch, the shadow and the recent requests. Call `answered`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.recent = RecentRequests()
        self.shadow = Shadow(metrics)
        self.canary = CanaryWatch()
        self._reported = False

    def answered(self, ranking: AnsweredRanking) -> None:
        """Count a ranking and show it to the observers. Never raises and never waits."""
        self._metrics.rankings[ranking.live.role, ranking.failed].inc()
        if ranking.request is None:
            return
        if ranking.scores is not None:
            self.recent.add(ranking.request)
        # Usually there is neither a shadow nor a canary.
        if ranking.snapshot.shadow is not None:
            self._guarded(self._offer_to_shadow, ranking)
        if self.canary.is_comparing:
            self._guarded(self._offer_to_canary, ranking)

    def follow(self, snapshot: ServingSnapshot) -> None:
        """Observe the versions of this snapshot from now on."""
        self.shadow.thread.share = snapshot.limits.shadow_share
        self.canary.follow(snapshot.canary, snapshot.stable, snapshot.limits.shadow_share)

    def close(self) -> None:
        """End the threads of the observers."""
        self.shadow.thread.close()
        self.canary.thread.close()

    def _guarded(self, observe: Callable[[AnsweredRanking], None], ranking: AnsweredRanking) -> None:
        try:
            observe(ranking)
        except Exception:
            # The ranking itself is right. One traceback is enough, because every ranking would log the same one.
            if not self._reported:
                self._reported = True
                log.exception("a ranking could not be observed")

    def _offer_to_shadow(self, ranking: AnsweredRanking) -> None:
        shadow = ranking.snapshot.shadow
        live = ranking.live
        request = ranking.request
        if shadow is None or live.role != Role.STABLE or request is None:
            return
        if ranking.predictions is None or ranking.scores is None:
            return
        if shadow.bundle.layouts.inputs_fingerprint != live.bundle.layouts.inputs_fingerprint:
            return
        formula = shadow.fusion.formulas.get(ranking.profile)
        if formula is not None:
            job = ShadowJob(shadow.bundle, formula, request.inputs, live.bundle, ranking.predictions, ranking.scores)
            self.shadow.offer(job)

    def _offer_to_canary(self, ranking: AnsweredRanking) -> None:
        request = ranking.request
        if request is not None:
            self.canary.offer(ranking.live.bundle, request.user_id, request.inputs, request.own_features)
