"""ESCM2 against a float64 reference of the paper's IPS and DR losses, and the property that makes them unbiased."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.layers.probability import log_loss, of_logit
from models.recipe import RecipeError
from models.structures.escm2 import IMPUTATION, Escm2Options
from models.train import train

N = 300
ESTIMATORS = pytest.mark.parametrize("estimator", ["ips", "dr"])


def options(estimator, **more):
    return Escm2Options(type="escm2", click="click", conversion="buy", estimator=estimator, **more)


def structure(estimator, **more):
    return options(estimator, **more).build(None)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def rows(seed=0):
    """Logits by head and labels, float64; some conversions have no click, as in real logs."""
    rng = np.random.default_rng(seed)
    logits = {"pctr": rng.normal(-1, 1, N), "pcvr": rng.normal(0, 2, N), IMPUTATION: rng.normal(0, 1, N)}
    return logits, (rng.random(N) < 0.4).astype(float), (rng.random(N) < 0.3).astype(float)


def error(z, r):
    return -(r * np.log(sigmoid(z)) + (1 - r) * np.log(1 - sigmoid(z)))


def expected_error(logits):
    return np.log1p(np.exp(logits[IMPUTATION]))


def estimate(estimator, logits, propensity, o, r, largest=100.0):
    """The paper's estimate of the loss of pCVR of each impression, with the propensity as a given number."""
    weight = np.minimum(1 / propensity, largest)
    e = error(logits["pcvr"], r)
    if estimator == "ips":
        return o * e * weight
    return expected_error(logits) + o * weight * (e - expected_error(logits))


def square(logits, propensity, o, r, largest=100.0):
    """The paper's loss of the imputation tower."""
    return o * np.minimum(1 / propensity, largest) * (error(logits["pcvr"], r) - expected_error(logits)) ** 2


def pcvr_loss(estimator, logits, o, r, **more):
    of = {output.name: output for output in structure(estimator, **more).outputs}["pcvr"]
    batch = {"label/click": torch.as_tensor(o), "label/buy": torch.as_tensor(r)}
    return of.correction.loss(of_logit(logits["pcvr"]), batch["label/buy"], batch, logits)


def as_torch(logits, dtype=torch.float64):
    return {head: torch.from_numpy(z).to(dtype).requires_grad_() for head, z in logits.items()}


@ESTIMATORS
@pytest.mark.parametrize("largest", [100.0, 3.0])
def test_the_loss_of_pcvr_is_the_papers(estimator, largest):
    logits, o, r = rows()
    propensity = sigmoid(logits["pctr"])
    expected = estimate(estimator, logits, propensity, o, r, largest).mean()
    if estimator == "dr":
        expected += square(logits, propensity, o, r, largest).mean()
    got = pcvr_loss(estimator, as_torch(logits), o, r, largest_weight=largest)
    assert float(got.detach()) == pytest.approx(expected, rel=1e-10)


@ESTIMATORS
def test_the_estimate_moves_pcvr_the_square_the_imputation_and_nothing_the_propensity(estimator):
    logits, o, r = rows(1)
    given = as_torch(logits)
    pcvr_loss(estimator, given, o, r).backward()
    propensity = sigmoid(logits["pctr"])

    def numerically(function, head):
        up, down = (function(logits | {head: logits[head] + h}) for h in (1e-6, -1e-6))
        return (up - down) / 2e-6 / N

    of_pcvr = numerically(lambda z: estimate(estimator, z, propensity, o, r), "pcvr")
    np.testing.assert_allclose(given["pcvr"].grad.numpy(), of_pcvr, atol=1e-8)
    assert given["pctr"].grad is None
    if estimator == "dr":
        of_imputation = numerically(lambda z: square(z, propensity, o, r), IMPUTATION)
        np.testing.assert_allclose(given[IMPUTATION].grad.numpy(), of_imputation, atol=1e-8)


def expected_over_clicks(estimator, logits, propensity, truth, r):
    """The mean of each impression's estimate over click and no click, of probabilities `truth` and 1 - `truth`."""
    one = estimate(estimator, logits, propensity, 1.0, r, np.inf)
    none = estimate(estimator, logits, propensity, 0.0, r, np.inf)
    return truth * one + (1 - truth) * none


def test_ips_expects_the_loss_over_all_impressions_if_the_propensity_is_right():
    logits, _, r = rows(2)
    truth = sigmoid(logits["pctr"])
    got = expected_over_clicks("ips", logits, truth, truth, r)
    np.testing.assert_allclose(got, error(logits["pcvr"], r), rtol=1e-12)
    assert (np.abs(expected_over_clicks("ips", logits, truth / 2, truth, r) - error(logits["pcvr"], r)) > 0.01).any()


def test_dr_expects_it_if_the_propensity_or_the_imputed_loss_is_right():
    logits, _, r = rows(3)
    truth = sigmoid(logits["pctr"])
    e = error(logits["pcvr"], r)
    np.testing.assert_allclose(expected_over_clicks("dr", logits, truth, truth, r), e, rtol=1e-10)
    exact = logits | {IMPUTATION: np.log(np.expm1(e))}
    np.testing.assert_allclose(expected_over_clicks("dr", exact, truth / 2, truth, r), e, rtol=1e-9)
    assert (np.abs(expected_over_clicks("dr", logits, truth / 2, truth, r) - e) > 0.01).any()


@ESTIMATORS
def test_a_click_of_no_probability_and_extreme_logits_keep_loss_and_gradients_finite(estimator):
    for pctr in (-200.0, 200.0):
        for z in (-80.0, 80.0):
            for o, r in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
                given = {"pctr": [pctr], "pcvr": [z], IMPUTATION: [z]}
                logits = as_torch({head: np.array(v) for head, v in given.items()}, torch.float32)
                loss = pcvr_loss(estimator, logits, np.array([o], np.float32), np.array([r], np.float32))
                loss.backward()
                assert torch.isfinite(loss)
                assert all(torch.isfinite(t.grad).all() for t in logits.values() if t.grad is not None)


@ESTIMATORS
def test_the_scores_and_the_other_losses_are_esmms(estimator):
    logits, o, r = rows(4)
    made = structure(estimator)
    scores = made.scores(as_torch(logits))
    pctr = sigmoid(logits["pctr"])
    pctcvr = pctr * sigmoid(logits["pcvr"])
    np.testing.assert_allclose(scores["pctcvr"].yes.exp().detach(), pctcvr, rtol=1e-12)
    outputs = {output.name: output for output in made.outputs}
    assert [name for name, output in outputs.items() if output.correction is not None] == ["pcvr"]
    assert all(output.trained for output in outputs.values())
    assert outputs["pcvr"].space == ("click",), "it is measured and calibrated on clicks"
    label = torch.from_numpy(o * r)
    expected = -np.mean(o * r * np.log(pctcvr) + (1 - o * r) * np.log(1 - pctcvr))
    assert float(log_loss(scores["pctcvr"], label).mean().detach()) == pytest.approx(expected)


def test_the_imputation_tower_exists_for_dr_alone_and_is_no_output():
    assert structure("ips").heads == ("pctr", "pcvr")
    assert structure("dr").heads == ("pctr", "pcvr", IMPUTATION)
    assert [output.name for output in structure("dr").outputs] == ["pctr", "pcvr", "pctcvr"]


@ESTIMATORS
def test_a_constant_model_reaches_the_rate_of_all_impressions_where_clicks_have_another(estimator):
    """Those who click often convert more, so that the clicks alone show a rate of 0.44 where the true one is 0.3."""
    rng = np.random.default_rng(5)
    n = 40_000
    often = rng.random(n) < 0.5
    pctr = np.where(often, 0.6, 0.1)
    o = (rng.random(n) < pctr).astype(float)
    r = o * (rng.random(n) < np.where(often, 0.5, 0.1))
    assert r.sum() / o.sum() > 0.42
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    imputed = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rule = torch.optim.Adam([z, imputed], lr=0.02)
    propensity = torch.from_numpy(np.log(pctr / (1 - pctr)))
    for _ in range(400):
        rule.zero_grad()
        logits = {"pctr": propensity, "pcvr": z.expand(n), IMPUTATION: imputed[torch.from_numpy(often).long()]}
        pcvr_loss(estimator, logits, o, r).backward()
        rule.step()
    assert float(torch.sigmoid(z.detach())) == pytest.approx(0.3, abs=0.02)


def test_a_ranker_with_dr_trains_all_its_towers():
    model = small("escm2")
    losses = model.ranker.losses(training_batch(model, 64, 3))
    assert list(losses) == ["pctr", "pcvr", "pctcvr"]
    losses["pcvr"].backward()
    bias = model.ranker.towers.layers[-1].bias.grad[:, 0, 0]
    assert bias[0] == 0 and bias[1] != 0 and bias[2] != 0


def test_a_list_loss_on_its_pcvr_is_refused(tiny_recipe, tables, tmp_path):
    task = {"type": "escm2", "click": "click", "conversion": "like"}
    changes = {"tasks": [task], "extra_evaluations": [], "training.list_losses": {"pcvr": {"type": "pairwise"}}}
    with pytest.raises(RecipeError, match="'pcvr' has a loss over all impressions; a list loss would see the clicks"):
        train(tiny_recipe(tables, changes), tmp_path / "run", cache=tmp_path / "cache", quiet=True)
