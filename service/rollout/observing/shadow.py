"""Scores a sample of the stable version's rankings with the shadow version, in the background, for metrics alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from features.statistics import psi, rank_correlation
from service.bundle.loading import Bundle
from service.fusion import Formula
from service.metrics.metrics import Metrics
from service.rollout.comparison import overlap, sampled_places
from service.rollout.observing.background import BudgetedThread
from service.rollout.serving import Live

log = logging.getLogger("funnelrank.shadow")
_SCORES_KEPT = 4000
_MIN_SCORES = 500
_PSI_EVERY = 20


@dataclass(frozen=True, slots=True, eq=False)
class ShadowJob:
    """A ranking of the stable version, to be repeated by `shadow`.

    `predictions` `[tasks, C]` and `scores` `[C]` are the stable version's.
    """

    shadow: Live
    formula: Formula
    inputs: Mapping[str, np.ndarray]
    stable: Bundle
    predictions: np.ndarray
    scores: np.ndarray


class ScoreSamples:
    """The newest task scores of one version, `[tasks, n]`, a few evenly spread candidates of every request."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self._scores = np.empty((len(tasks), _SCORES_KEPT), dtype=np.float32)
        self._seen = 0

    def add(self, scores: np.ndarray) -> None:
        """Keep some of the task scores `[tasks, C]`."""
        sample = scores[:, sampled_places(scores.shape[1])]
        self._scores[:, (self._seen + np.arange(sample.shape[1])) % _SCORES_KEPT] = sample
        self._seen += sample.shape[1]

    def __len__(self) -> int:
        return min(self._seen, _SCORES_KEPT)

    def by_task(self) -> Mapping[str, np.ndarray]:
        """The finite scores by task."""
        scores = self._scores[:, : len(self)]
        return {task: row[np.isfinite(row)] for task, row in zip(self.tasks, scores, strict=True)}


@dataclass(eq=False)
class _Pair:
    """The comparison of one shadow version with one stable version."""

    shadow: str
    stable: str
    of_shadow: ScoreSamples
    of_stable: ScoreSamples
    compared: int = 0


class Shadow:
    """Repeats rankings within a budget.

    An answer never waits for the shadow; a ranking beyond the budget is dropped and counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.thread = BudgetedThread("shadow")
        self._pair = _Pair("", "", ScoreSamples(()), ScoreSamples(()))
        self._followed: tuple[str, str] | None = None  # line and version
        self._reported: set[tuple[str, str]] = set()  # lines and tasks with a PSI

    def follow(self, shadow: Live | None) -> None:
        """Remove the PSI of a shadow that has ended or was replaced, because its alert would go on."""
        followed = None if shadow is None else (shadow.line, shadow.bundle.label)
        if followed == self._followed:
            return
        self._followed = followed
        while self._reported:
            self._metrics.shadow_psi.remove(*self._reported.pop())

    def offer(self, job: ShadowJob) -> None:
        """Queue a ranking, or drop it if the shadow is behind or has spent its budget. Never waits."""
        if not self.thread.offer(partial(self._repeat, job)):
            self._metrics.shadow.labels(job.shadow.line, "dropped").inc()

    def _repeat(self, job: ShadowJob) -> None:
        try:
            self._compare(job)
            self._metrics.shadow.labels(job.shadow.line, "scored").inc()
        except Exception:
            self._metrics.shadow.labels(job.shadow.line, "failed").inc()
            log.exception("shadow %s failed", job.shadow.bundle.label)

    def _compare(self, job: ShadowJob) -> None:
        metrics = self._metrics
        line = job.shadow.line
        shadow = job.shadow.bundle
        predictions = shadow.score(shadow.graph_inputs(job.inputs))
        scores = job.formula.fuse(predictions, job.inputs.get("item_numerics"))
        usable = np.isfinite(scores) & np.isfinite(job.scores)
        if usable.sum() > 1:
            metrics.shadow_rank_correlation.labels(line).observe(rank_correlation(job.scores[usable], scores[usable]))
            metrics.shadow_overlap.labels(line).observe(overlap(job.scores[usable], scores[usable]))

        # Another version in either role may have other tasks, so the sample starts anew.
        pair = self._pair
        if (pair.shadow, pair.stable) != (shadow.label, job.stable.label):
            samples = (ScoreSamples(shadow.tasks), ScoreSamples(job.stable.tasks))
            pair = self._pair = _Pair(shadow.label, job.stable.label, *samples)
        pair.of_stable.add(job.predictions)
        pair.of_shadow.add(predictions)
        pair.compared += 1

        first_places = sampled_places(predictions.shape[1])[:4]
        for row, task in enumerate(shadow.tasks):
            for score in predictions[row, first_places].tolist():
                metrics.shadow_score.labels(line, task).observe(score)
        if pair.compared % _PSI_EVERY == 0:
            self._report_psi(line, pair)

    def _report_psi(self, line: str, pair: _Pair) -> None:
        # The shadow may have ended while this ranking was in work.
        if self._followed != (line, pair.shadow):
            return
        stable = pair.of_stable.by_task()
        shadow = pair.of_shadow.by_task()
        for task in stable.keys() & shadow.keys():
            if min(len(stable[task]), len(shadow[task])) >= _MIN_SCORES:
                self._reported.add((line, task))
                self._metrics.shadow_psi.labels(line, task).set(psi(stable[task], shadow[task]))
