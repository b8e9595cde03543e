"""Counts an answered ranking in the metrics. Previews are not counted."""

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


def count_ranking(metrics: Metrics, ranking: Ranking) -> None:
    """Count a ranking's size, the times of its stages, its degradations, its arm of an experiment, and its rules."""
    # The size and the times.
    computation = ranking.computation
    metrics.candidates.observe(computation.coverage[0])
    metrics.behaviours.observe(computation.behaviours)
    stages = metrics.stages
    stages["assemble"].observe(computation.seconds.assembling)
    stages["score"].observe(computation.seconds.scoring)
    stages["fuse"].observe(computation.seconds.fusing)
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
