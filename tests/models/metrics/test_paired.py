"""Tests the paired comparison of two models against the plain metrics and against what chance does."""

import numpy as np
import pytest

from models.metrics.calibration import log_loss
from models.metrics.paired import PairedMetric, paired_difference
from models.metrics.ranking import auc, gauc, list_metrics

USERS = 150


def world(seed: int, n: int = 3000) -> tuple[np.ndarray, ...]:
    """Labels, a good and a noisy model's probabilities (with ties), users, and lists of five within a user."""
    rng = np.random.default_rng(seed)
    users = np.sort(rng.integers(0, USERS, n))
    truth = rng.uniform(0.05, 0.6, n)
    labels = (rng.random(n) < truth).astype(float)
    noisy = np.clip(truth + rng.normal(0, 0.3, n), 0.01, 0.99)
    return labels, np.round(noisy, 2), np.round(truth, 2), users, users * 1000 + np.arange(n) // 5


@pytest.mark.parametrize("metric", ["auc", "gauc", "ndcg@10", "log_loss"])
def test_both_metrics_are_the_plain_ones_and_the_better_model_gains(metric: PairedMetric) -> None:
    labels, noisy, good, users, groups = world(1)
    result = paired_difference(labels, noisy, good, users, groups, metric)
    plain = {
        "auc": lambda scores: auc(labels, scores),
        "gauc": lambda scores: gauc(labels, scores, groups).value,
        "ndcg@10": lambda scores: list_metrics(labels, scores, groups, (10,)).means()["ndcg@10"],
        "log_loss": lambda scores: log_loss(labels, np.log(scores)),
    }[metric]
    assert result.first == pytest.approx(plain(noisy))
    assert result.second == pytest.approx(plain(good))
    assert result.gain is not None and result.low is not None and result.high is not None
    assert 0 < result.low < result.gain < result.high
    assert result.gain == pytest.approx(abs(plain(good) - plain(noisy)))


def test_a_model_differs_from_itself_by_nothing() -> None:
    labels, noisy, _, users, groups = world(2)
    result = paired_difference(labels, noisy, noisy, users, groups, "auc")
    assert (result.gain, result.low, result.high) == (0.0, 0.0, 0.0)


def test_two_equally_good_models_are_seldom_told_apart() -> None:
    apart = 0
    for seed in range(40):
        labels, noisy, good, users, groups = world(seed, 1500)
        other = np.random.default_rng(seed + 1000).permutation(noisy - good) + good
        result = paired_difference(labels, noisy, np.clip(other, 0.01, 0.99), users, groups, "auc", draws=100)
        assert result.low is not None and result.high is not None
        apart += result.low > 0 or result.high < 0
    assert apart <= 6  # 5 % of 40 are 2; more than 6 have a probability of 0.3 %


def test_one_class_or_one_user_has_no_interval() -> None:
    labels, noisy, good, users, groups = world(3)
    assert paired_difference(labels * 0, noisy, good, users, groups, "auc").gain is None
    assert paired_difference(labels, noisy, good, users * 0, groups * 0, "auc").low is None
