"""CREAD against a float64 reference: thresholds by error-adaptive discretisation, three losses, the restored time."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.structures.cread import CreadOptions, TimeBuckets
from models.train import train
from models.training.run import open_run

M = 6
N = 200


def options(**more):
    return CreadOptions(type="cread", name="watch", label="ms", thresholds=M, **more)


def built(time, **more):
    made = options(**more).build(None)
    made.buckets.double()
    made.fit(time, {})
    return made


def times(n=N, seed=0):
    return np.random.default_rng(seed).lognormal(1, 1, n)


def gamma(z, alpha):
    return (1 - np.exp(-alpha * z)) / (1 - np.exp(-alpha))


def thresholds_of(time, alpha):
    return np.array([np.quantile(time, gamma(m / (M + 1), alpha)) for m in range(1, M + 1)])


def restored(phi, t):
    return sum(phi[:, m] * (t[m] - (t[m - 1] if m else 0.0)) for m in range(M))


def reference(z, time, alpha, restoration, order):
    t = thresholds_of(time, alpha)
    phi = 1 / (1 + np.exp(-z))
    exceeds = (time[:, None] > t).astype(float)
    classification = -np.mean(exceeds * np.log(phi) + (1 - exceeds) * np.log(1 - phi))
    error = np.abs(restored(phi, t) - time) / time.mean()
    huber = np.mean(np.where(error < 1, error**2 / 2, error - 0.5))
    rising = sum(np.maximum(phi[:, m + 1] - phi[:, m], 0) for m in range(M - 1)).mean()
    return classification + restoration * huber + order * rising


@pytest.mark.parametrize("alpha", [0.01, 1.0, 4.0])
def test_the_thresholds_are_the_quantiles_at_the_papers_levels(alpha):
    time = times(5000)
    made = TimeBuckets(M).double()
    made.fit(time, alpha)
    np.testing.assert_allclose(made.thresholds, thresholds_of(time, alpha), rtol=1e-6)
    np.testing.assert_allclose(made.widths.sum(), made.thresholds[-1], rtol=1e-6)


def test_a_larger_alpha_puts_fewer_examples_into_the_last_buckets():
    time = times(5000)
    shares = []
    for alpha in (0.01, 2.0, 5.0):
        made = TimeBuckets(M).double()
        made.fit(time, alpha)
        shares.append(float((time > float(made.thresholds[-1])).mean()))
    assert shares[0] == pytest.approx(1 / (M + 1), abs=0.01) and shares[0] > shares[1] > shares[2] > 0


@pytest.mark.parametrize(("restoration", "order"), [(0.0, 0.0), (1.0, 0.5)])
def test_the_loss_and_its_gradient_are_the_papers(restoration, order):
    time = times()
    z = np.random.default_rng(1).normal(size=(N, M)) * 2
    made = built(time, alpha=1.5, restoration=restoration, order=order)
    given = torch.from_numpy(z).requires_grad_()
    loss = made.outputs[0].correction.loss(torch.zeros(N), torch.from_numpy(time), {}, {"watch": given})
    loss.backward()
    assert float(loss.detach()) == pytest.approx(reference(z, time, 1.5, restoration, order), rel=1e-6)
    for i, m in ((0, 0), (3, 2), (17, 5), (40, 1)):
        step = np.zeros_like(z)
        step[i, m] = 1e-5
        both = [reference(z + s, time, 1.5, restoration, order) for s in (step, -step)]
        assert float(given.grad[i, m]) == pytest.approx((both[0] - both[1]) / 2e-5, abs=1e-8)


def test_the_output_is_the_restored_time_and_rises_with_every_logit():
    time = times()
    z = np.random.default_rng(2).normal(size=(N, M))
    made = built(time)
    value = made.scores({"watch": torch.from_numpy(z)})["watch"]
    np.testing.assert_allclose(value, restored(1 / (1 + np.exp(-z)), thresholds_of(time, 1.0)), rtol=1e-6)
    assert (made.scores({"watch": torch.from_numpy(z + 0.1)})["watch"] > value).all()


def test_perfect_answers_restore_a_time_to_its_bucket():
    time = times()
    made = built(time)
    t = thresholds_of(time, 1.0)
    z = np.where(time[:, None] > t, 50.0, -50.0)
    value = made.scores({"watch": torch.from_numpy(z)})["watch"].numpy()
    below = np.concatenate([[0.0], t])[(time[:, None] > t).sum(1)]
    np.testing.assert_allclose(value, below, rtol=1e-6, atol=1e-12)


def test_extreme_logits_keep_loss_and_gradients_finite():
    made = built(times())
    for z in (-80.0, 80.0):
        given = torch.full((2, M), z, dtype=torch.float64, requires_grad=True)
        logits = {"watch": given}
        loss = made.outputs[0].correction.loss(torch.zeros(2), torch.tensor([0.0, 1e6]).double(), {}, logits)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(given.grad).all()


def test_a_ranker_has_a_logit_per_threshold_and_one_value():
    model = small("cread")
    assert model.ranker.width == 32 and model.ranker.score_names == ("pctr", "watch_time")
    with torch.no_grad():
        assert model.ranker(training_batch(model, 16, 3))["watch_time"].shape == (16,)


def test_it_beats_the_mean_on_tables_where_long_items_are_watched_longer(tiny_recipe, tables, tmp_path):
    shown = tables["impressions"]
    length = tables["items"]["length"].to_numpy()[shown["item_id"]]
    shown["watched"] = np.random.default_rng(0).uniform(0.5, 1.5, len(shown)) * length / 10
    task = {"type": "cread", "name": "watch", "label": "watched", "thresholds": 8}
    recipe = tiny_recipe(tables, {"tasks": [task], "extra_evaluations": [], "training.epochs": 10})
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    measured = metrics["parts"]["test"]["outputs"]["watch"]
    test = shown["watched"].to_numpy()
    assert measured["rmse"] < 0.9 * test.std() and measured["mae"] < 0.8 * np.abs(test - test.mean()).mean()
    thresholds = open_run(tmp_path / "run").ranker.statistics["watch"].thresholds
    assert (thresholds.diff() >= 0).all() and thresholds[-1] > 3
