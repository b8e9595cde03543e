"""Compares two models on the same impressions: the difference of a metric with a paired bootstrap over users."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.metrics.bootstrap import DRAWS, LEVEL, Draws
from models.metrics.calibration import log_losses
from models.metrics.ranking import list_metrics

PairedMetric = Literal["auc", "gauc", "ndcg@10", "log_loss"]
_SMALLEST = 1e-12  # of a probability, whose logarithm is finite then

# The metric of a sample in which each user counts so many times, float64 `[users]`; None if it has none.
Measure = Callable[[np.ndarray], float | None]


@dataclass(frozen=True)
class PairedDifference:
    """A metric of two models, and `gain`, which is positive where the second is better; `[low, high]` in 95 %.

    `second_low` is the low end of the second model's metric. None where a metric cannot be computed.
    """

    first: float | None
    second: float | None
    gain: float | None
    low: float | None
    high: float | None
    second_low: float | None


def paired_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    users: np.ndarray,
    groups: np.ndarray,
    metric: PairedMetric,
    draws: int = DRAWS,
) -> PairedDifference:
    """Compare probabilities `[n]` of two models. Users are drawn with replacement, the same ones for both models.

    `groups` are the lists of GAUC and nDCG@10; all impressions of one are of one user.
    """
    samples = Draws(users, groups, draws)
    measures = [_measure(samples, labels, scores, groups, metric) for scores in (first, second)]
    everybody = np.ones(samples.users)
    whole = [measure(everybody) for measure in measures]
    sign = -1.0 if metric == "log_loss" else 1.0
    gains: list[float] = []
    seconds: list[float] = []
    for times in samples.times():
        one, other = (measure(times) for measure in measures)
        if one is not None and other is not None:
            gains.append(sign * (other - one))
            seconds.append(other)
    if whole[0] is None or whole[1] is None or not gains:
        return PairedDifference(whole[0], whole[1], None, None, None, None)
    low, high = (float(value) for value in np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    second_low = float(np.quantile(seconds, (1 - LEVEL) / 2))
    return PairedDifference(whole[0], whole[1], sign * (whole[1] - whole[0]), low, high, second_low)


def _measure(
    samples: Draws, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, metric: PairedMetric
) -> Measure:
    if metric == "auc":
        tie = np.unique(scores, return_inverse=True)[1]
        return lambda times: _auc(labels, tie, times[samples.place])
    if metric in ("gauc", "ndcg@10"):
        lists = list_metrics(labels, scores, groups, (10,) if metric == "ndcg@10" else ())
        owner = samples.place_of_group[np.searchsorted(samples.groups, lists.group)]
        values, weights = lists.columns()[metric]
    else:
        owner = samples.place
        values = log_losses(labels, np.log(np.clip(scores, _SMALLEST, 1.0)))
        weights = np.ones(len(values))
    return lambda times: _mean(values, weights * times[owner])


def _mean(values: np.ndarray, weights: np.ndarray) -> float | None:
    total = float(weights.sum())
    return float(values @ weights) / total if total else None


def _auc(labels: np.ndarray, tie: np.ndarray, weight: np.ndarray) -> float | None:
    """Weighted AUC, ties counted as one half; `tie` is the place of each score among the different ones."""
    positives = np.bincount(tie, weights=weight * labels)
    negatives = np.bincount(tie, weights=weight) - positives
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below) / float(pairs) if pairs else None
