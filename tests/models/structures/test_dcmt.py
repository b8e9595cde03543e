"""DCMT against a float64 reference of the paper's loss of the twin towers, self-normalised."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.layers.probability import of_logit
from models.structures.dcmt import TWIN, DcmtOptions

N = 300


def structure(**more):
    return DcmtOptions(type="dcmt", click="click", conversion="buy", **more).build(None)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def rows(seed=0):
    """Logits by head and labels, float64; some conversions have no click, as in real logs."""
    rng = np.random.default_rng(seed)
    logits = {"pctr": rng.normal(-1, 1, N), "pcvr": rng.normal(0, 2, N), TWIN: rng.normal(0, 2, N)}
    return logits, (rng.random(N) < 0.4).astype(float), (rng.random(N) < 0.3).astype(float)


def reference(logits, propensity, o, r, agreement):
    """Both self-normalised sums of the paper and its prior, with the propensity as a given number."""
    p = sigmoid(logits["pcvr"])
    q = sigmoid(logits[TWIN])
    of_click = o / propensity
    of_other = (1 - o) / (1 - propensity)
    mirrored = 1 - o * r
    factual = -(r * np.log(p) + (1 - r) * np.log(1 - p))
    counterfactual = -(mirrored * np.log(q) + (1 - mirrored) * np.log(1 - q))
    sums = (of_click * factual).sum() / of_click.sum() + (of_other * counterfactual).sum() / of_other.sum()
    return sums + agreement * np.abs(1 - (p + q)).mean()


def pcvr_loss(logits, o, r, **more):
    of = {output.name: output for output in structure(**more).outputs}["pcvr"]
    batch = {"label/click": torch.as_tensor(o), "label/buy": torch.as_tensor(r)}
    return of.correction.loss(of_logit(logits["pcvr"]), batch["label/buy"], batch, logits)


def as_torch(logits, dtype=torch.float64):
    return {head: torch.from_numpy(z).to(dtype).requires_grad_() for head, z in logits.items()}


@pytest.mark.parametrize("agreement", [0.0, 0.001, 2.0])
def test_the_loss_of_pcvr_and_its_gradient_are_the_papers(agreement):
    logits, o, r = rows()
    propensity = sigmoid(logits["pctr"])
    given = as_torch(logits)
    loss = pcvr_loss(given, o, r, agreement=agreement)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(reference(logits, propensity, o, r, agreement), rel=1e-10)
    assert given["pctr"].grad is None
    for head in ("pcvr", TWIN):
        for i in range(40):
            step = np.zeros(N)
            step[i] = 1e-6
            up, down = (
                reference(logits | {head: logits[head] + s}, propensity, o, r, agreement) for s in (step, -step)
            )
            assert float(given[head].grad[i]) == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_only_the_agreement_ties_the_towers():
    logits, *_ = rows(1)
    given = as_torch(logits)
    pcvr_loss(given, np.zeros(N), np.zeros(N), agreement=0.0).backward()
    assert (given["pcvr"].grad == 0).all() and (given[TWIN].grad != 0).all()
    tied = as_torch(logits)
    pcvr_loss(tied, np.zeros(N), np.zeros(N), agreement=1.0).backward()
    sign = np.sign(sigmoid(logits["pcvr"]) + sigmoid(logits[TWIN]) - 1)
    np.testing.assert_array_equal(np.sign(tied["pcvr"].grad.numpy()), sign)


def test_a_conversion_without_a_click_is_none():
    logits, o, r = rows(2)
    with_it = pcvr_loss(as_torch(logits), o, r)
    without = pcvr_loss(as_torch(logits), o, o * r)
    assert float(with_it.detach()) == float(without.detach())


def test_the_weights_of_a_batch_without_clicks_or_of_clicks_alone_stay_finite():
    for pctr in (-200.0, 200.0):
        for z in (-80.0, 80.0):
            for o in (0.0, 1.0):
                logits = as_torch({"pctr": np.array([pctr]), "pcvr": np.array([z]), TWIN: np.array([z])}, torch.float32)
                loss = pcvr_loss(logits, np.array([o], np.float32), np.array([o], np.float32))
                loss.backward()
                assert torch.isfinite(loss)
                assert all(torch.isfinite(t.grad).all() for t in logits.values() if t.grad is not None)


def test_the_weight_of_a_click_is_bounded():
    logits, o, r = rows(3)
    logits["pctr"] = logits["pctr"] - 6
    equal = pcvr_loss(as_torch(logits), o, r, largest_weight=1.0, agreement=0.0)
    p = sigmoid(logits["pcvr"])
    q = sigmoid(logits[TWIN])
    expected = -np.where(r > 0, np.log(p), np.log(1 - p))[o > 0].mean() - np.log(q)[o == 0].mean()
    assert float(equal.detach()) == pytest.approx(expected, rel=1e-10)


def test_a_ranker_trains_all_its_towers_and_serves_the_chain():
    model = small("dcmt")
    assert model.ranker.heads == ("pctr", "pcvr", TWIN)
    assert model.ranker.score_names == ("pctr", "pcvr", "pctcvr")
    model.ranker.losses(training_batch(model, 64, 3))["pcvr"].backward()
    bias = model.ranker.towers.layers[-1].bias.grad[:, 0, 0]
    assert bias[0] == 0 and bias[1] != 0 and bias[2] != 0
