"""Hands every answered ranking to the observers: recent requests, the shadow, the canary watch. None of them can fail a ranking."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.metrics.metrics import Metrics
from service.rollout.canary import CanaryWatch
from service.rollout.recent import Assembly, RecentRequests
from service.rollout.serving import Live, Role, ServingSnapshot
from service.rollout.shadow import Shadow, ShadowJob

log = logging.getLogger("funnelrank.observers")


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredRanking:
    """One ranking, by the version `live` of the snapshot that the request took.

    `inputs` are the graph's named inputs, None where the request ended before they were assembled. `predictions` `[tasks, C]` and `scores`
    `[C]` are None where the request ended before they were computed (its deadline passed). `failed`: some candidate got no score, or the
    deadline passed. `own_features`: the caller brought values of items along.
    """

    snapshot: ServingSnapshot
    live: Live
    user_id: str
    profile: str
    inputs: Mapping[str, np.ndarray] | None
    predictions: np.ndarray | None
    scores: np.ndarray | None
    failed: bool
    own_features: bool


class Observers:
    """What looks at rankings after they were computed. `answered` is the one entry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.recent = RecentRequests()
        self.shadow = Shadow(metrics)
        self.canary = CanaryWatch()
        self._reported = False

    def answered(self, ranking: AnsweredRanking) -> None:
        """Count a ranking and show it to the observers. Never raises and never waits."""
        self._metrics.rankings[ranking.live.role, ranking.failed].inc()
        self._guarded(self._remember, ranking)
        self._guarded(self._offer_to_shadow, ranking)
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
            # The ranking itself is right. One traceback is enough; the same fault comes with every ranking.
            if not self._reported:
                self._reported = True
                log.exception("a ranking could not be observed")

    def _remember(self, ranking: AnsweredRanking) -> None:
        if ranking.inputs is not None and ranking.scores is not None:
            fingerprint = ranking.live.bundle.layouts.fingerprint
            self.recent.add(Assembly(fingerprint, ranking.user_id, ranking.inputs, len(ranking.scores)))

    def _offer_to_shadow(self, ranking: AnsweredRanking) -> None:
        shadow = ranking.snapshot.shadow
        live = ranking.live
        if shadow is None or live.role != Role.STABLE or ranking.inputs is None:
            return
        if ranking.predictions is None or ranking.scores is None:
            return
        if shadow.bundle.layouts.fingerprint != live.bundle.layouts.fingerprint:
            return
        formula = shadow.fusion.formulas.get(ranking.profile)
        if formula is not None:
            job = ShadowJob(shadow.bundle, formula, ranking.inputs, live.bundle, ranking.predictions, ranking.scores)
            self.shadow.offer(job)

    def _offer_to_canary(self, ranking: AnsweredRanking) -> None:
        if ranking.inputs is not None:
            self.canary.offer(ranking.live.bundle, ranking.user_id, ranking.inputs, ranking.own_features)
