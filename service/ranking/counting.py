"""Counts a ranking in the metrics, stage by stage, since a deadline may end it after any of them.

Previews are not counted.
"""

from collections.abc import Mapping

import numpy as np

from service.metrics.metrics import Metrics
from service.ranking.degradation import Reason
from service.ranking.query import Ranking
from service.store.base import StoredRows


def count_store(metrics: Metrics, stored: StoredRows | None, seconds: float) -> None:
    """Count the time that reading the stored rows took, and the rows that do not fit the schema."""
    metrics.stages["store"].observe(seconds)
    if stored is not None:
        for entity, count in stored.corrupt.items():
            metrics.corrupt_rows.inc(entity, amount=count)


def count_assembled(metrics: Metrics | None, inputs: Mapping[str, np.ndarray], candidates: int, seconds: float) -> None:
    """Count the size of a ranking whose inputs are assembled, and the time that this took."""
    if metrics is None:
        return
    metrics.candidates.observe(candidates)
    metrics.behaviours.observe(len(inputs.get("behaviour_times", ())))
    metrics.stages["assemble"].observe(seconds)


def count_scored(metrics: Metrics | None, seconds: float) -> None:
    """Count the time that scoring took."""
    if metrics is not None:
        metrics.stages["score"].observe(seconds)


def count_ranking(metrics: Metrics, ranking: Ranking) -> None:
    """Count an answered ranking: the time of fusion, its degradations, its arm of an experiment, and its rules."""
    metrics.stages["fuse"].observe(ranking.computation.seconds.fusing)
    # What was missing.
    for degradation in ranking.degraded:
        metrics.degraded.inc(degradation.reason)
        if degradation.reason == Reason.BROWNOUT:
            metrics.brownouts.inc(str(degradation.count))
    # The experiment and the rules.
    chosen = ranking.chosen
    if chosen is not None:
        metrics.experiments.inc(chosen.experiment, chosen.arm)
    applied = ranking.rules
    if applied is not None:
        rules = applied.chosen
        for place in applied.acted:
            metrics.rule_results.inc(rules.name, rules.bound.label(place), "acted")
        for place in applied.relaxed:
            metrics.rule_results.inc(rules.name, rules.bound.label(place), "relaxed")
