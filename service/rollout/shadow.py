"""Owns the shadow: a version that scores in the background what the stable one has answered, within a budget, for metrics alone.

One thread with a short queue: an answer never waits for it. What does not fit into the queue or the budget is dropped and counted.
"""

import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from service.bundle.loading import Bundle
from service.fusion import Formula
from service.metrics.metrics import Metrics
from service.rollout.background import step_back
from service.rollout.comparison import overlap, psi, rank_correlation
from service.rollout.score_samples import Samples

log = logging.getLogger("funnelrank.shadow")
_QUEUE = 16
_MIN_SCORES = 500
_PSI_EVERY = 20


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """One ranking of the stable version, and with what the shadow shall repeat it. `predictions` `[tasks, C]`, `scores` `[C]`."""

    shadow: Bundle
    formula: Formula
    inputs: Mapping[str, np.ndarray]
    tasks: tuple[str, ...]
    predictions: np.ndarray
    scores: np.ndarray


class Shadow:
    """The background thread of one worker; it starts with the first ranking that it is offered."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: queue.Queue[Answered | None] = queue.Queue(_QUEUE)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._free_at = 0.0
        self._label = ""
        self._samples: tuple[Samples, Samples] = (Samples(()), Samples(()))
        self._compared = 0
        self.share = 0.25

    def offer(self, answered: Answered) -> None:
        """Take a ranking up, or drop it where the shadow is behind or has used up its budget. Never waits."""
        try:
            if perf_counter() < self._free_at:
                raise queue.Full
            self._waiting.put_nowait(answered)
        except queue.Full:
            self._metrics.shadow["dropped"].inc()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        self._stopped.set()
        if self._thread is not None:
            while not self._waiting.empty():
                self._waiting.get_nowait()
            self._waiting.put(None)
            self._thread.join(timeout=5)

    def _run(self) -> None:
        step_back()
        while (answered := self._waiting.get()) is not None:
            started = perf_counter()
            try:
                self._compare(answered)
                self._metrics.shadow["scored"].inc()
            except Exception:
                self._metrics.shadow["failed"].inc()
                log.exception("shadow %s failed", answered.shadow.label)
            spent = perf_counter() - started
            pause = spent / self.share - spent
            self._free_at = perf_counter() + pause
            del answered  # a version that was replaced goes at once, not with the next request
            self._stopped.wait(pause)

    def _compare(self, answered: Answered) -> None:
        shadow = answered.shadow
        candidates = answered.predictions.shape[1]
        predictions = shadow.score(shadow.own(answered.inputs))
        scores = answered.formula.fuse(predictions, answered.inputs.get("item_numerics"))
        metrics = self._metrics
        usable = np.isfinite(scores) & np.isfinite(answered.scores)
        if usable.sum() > 1:
            metrics.shadow_rank_correlation.observe(rank_correlation(answered.scores[usable], scores[usable]))
            metrics.shadow_overlap.observe(overlap(answered.scores[usable], scores[usable]))
        if self._label != shadow.label:
            self._label = shadow.label
            self._samples = (Samples(answered.tasks), Samples(shadow.tasks))
            self._compared = 0
        self._samples[0].note(answered.predictions)
        self._samples[1].note(predictions)
        for row, task in enumerate(shadow.tasks):
            for score in predictions[row, Samples.places(candidates)[:4]].tolist():
                metrics.shadow_score.labels(task).observe(score)
        self._compared += 1
        if self._compared % _PSI_EVERY == 0:
            self._tell_psi()

    def _tell_psi(self) -> None:
        stable, shadow = (s.by_task() for s in self._samples)
        for task in stable.keys() & shadow.keys():
            if min(len(stable[task]), len(shadow[task])) >= _MIN_SCORES:
                self._metrics.shadow_psi.labels(task).set(psi(stable[task], shadow[task]))
