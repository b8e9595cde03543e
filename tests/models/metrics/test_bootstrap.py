"""Tests the bootstrap intervals against a resample of users with copies of their rows, and tests their coverage."""

import numpy as np
import pytest

from models.metrics import outputs
from models.metrics.bootstrap import Draws
from models.metrics.calibration import bin_of, log_loss
from models.metrics.ranking import auc, list_metrics


def impressions(seed=0, users=40, n=600):
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n) * 7 + 3
    taste = rng.normal(size=users * 7 + 3)[user]
    label = (rng.random(n) < 1 / (1 + np.exp(-taste))).astype(float)
    score = np.log(np.clip(np.round(rng.random(n) * 0.6 + 0.3 * label, 2), 0.01, 0.99))
    return user, label, score


def drawn_again(user, draws):
    """The rows of every sample, and the copy of the user that each row belongs to."""
    names = np.unique(user)
    for times in draws.times():
        copies = [
            (np.flatnonzero(user == name), k) for name, t in zip(names, times, strict=True) for k in range(int(t))
        ]
        rows = np.concatenate([rows for rows, _ in copies])
        owner = np.repeat(np.arange(len(copies)), [len(rows) for rows, _ in copies])
        yield rows, owner


def test_every_interval_equals_measuring_the_drawn_rows_anew():
    user, label, score = impressions()
    draws = Draws(user, count=50, seed=3)
    result = outputs.of_probability(label, score, user, draws=draws)["intervals"]
    assert set(result) == {
        *("auc", "gauc", "mrr", "log_loss", "ece"),
        *(f"{name}@{k}" for name in ("ndcg", "recall") for k in (5, 10)),
    }
    number = bin_of(np.exp(score))
    plain = {name: [] for name in result}
    for rows, owner in drawn_again(user, draws):
        y = label[rows]
        s = score[rows]
        measured = list_metrics(y, s, owner).means() | {"auc": auc(y, s), "log_loss": log_loss(y, s)}
        gaps = [abs((np.exp(s) - y)[number[rows] == b].sum()) for b in np.unique(number)]
        for name, figure in (measured | {"ece": sum(gaps) / len(y)}).items():
            plain[name].append(figure)
    for name, figures in plain.items():
        assert result[name] == pytest.approx(np.quantile(figures, [0.025, 0.975]).tolist(), abs=1e-12), name


def test_requests_of_a_user_stay_together():
    user, label, score = impressions()
    request = user * 100 + np.arange(len(user)) % 4
    by_request = outputs.of_probability(label, score, request, draws=Draws(user, request, seed=1))["intervals"]
    lists = list_metrics(label, score, request)
    figures = []
    for times in Draws(user, seed=1).times():
        weight = times[np.searchsorted(np.unique(user), lists.group // 100)]
        figures.append((lists.mrr * weight).sum() / weight.sum())
    assert by_request["mrr"] == pytest.approx(np.quantile(figures, [0.025, 0.975]).tolist(), abs=1e-12)


def test_the_interval_of_a_mean_covers_the_truth_in_about_95_of_100_samples_of_clustered_impressions():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        user = np.repeat(np.arange(50), 8)
        values = np.repeat(rng.normal(size=50), 8) + rng.normal(size=400)
        low, high = Draws(user, seed=seed).of_mean(values)
        covered += low < 0 < high
    assert 180 <= covered <= 199


def test_the_same_seed_gives_the_same_interval_and_one_user_gives_none():
    user, label, score = impressions()
    assert Draws(user).of_mean(label) == Draws(user).of_mean(label) != Draws(user, seed=1).of_mean(label)
    assert Draws(np.zeros(len(user))).of_mean(label) is None
    alone = outputs.of_probability(label, score, user, draws=Draws(np.zeros(len(user)), user))
    assert set(alone["intervals"].values()) == {None}
