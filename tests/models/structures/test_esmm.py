"""ESMM's task structure against a float64 reference of the paper's equations 1 and 3."""

import numpy as np
import torch

from models.layers.probability import log_loss
from models.structures.esmm import Esmm, EsmmOptions


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def esmm():
    return Esmm(EsmmOptions(type="esmm", click="click", conversion="buy"))


def logits(n=200, seed=0, spread=4.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {h: (torch.randn(n, generator=generator, dtype=torch.float64) * spread).to(dtype) for h in Esmm.heads}


def test_pctcvr_is_the_product_of_pctr_and_pcvr():
    given = logits()
    scores = esmm().scores(given)
    pctr = sigmoid(given["pctr"])
    pcvr = sigmoid(given["pcvr"])
    np.testing.assert_allclose(scores["pctr"].yes.exp(), pctr, atol=1e-6)
    np.testing.assert_allclose(scores["pcvr"].yes.exp(), pcvr, atol=1e-6)
    np.testing.assert_allclose(scores["pctcvr"].yes.exp(), pctr * pcvr, atol=1e-6)


def test_both_losses_run_over_all_impressions():
    given = logits(seed=1)
    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, 200).astype(np.float64)
    both = click * rng.integers(0, 2, 200)
    scores = esmm().scores(given)
    for name, p, y in (
        ("pctr", sigmoid(given["pctr"]), click),
        ("pctcvr", sigmoid(given["pctr"]) * sigmoid(given["pcvr"]), both),
    ):
        expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        np.testing.assert_allclose(log_loss(scores[name], torch.from_numpy(y).float()).mean(), expected, rtol=1e-5)


def test_pcvr_has_no_loss_of_its_own_and_means_conversion_given_click():
    outputs = {o.name: o for o in esmm().outputs}
    assert [n for n, o in outputs.items() if o.trained] == ["pctr", "pctcvr"]
    assert outputs["pcvr"].space == ("click",) and outputs["pcvr"].label == ("buy",)
    assert outputs["pctcvr"].space == () and outputs["pctcvr"].label == ("click", "buy")


def test_gradients_are_finite_and_right_at_extreme_logits():
    for a, b in ((80.0, 80.0), (-80.0, -80.0), (80.0, -80.0), (-80.0, 80.0)):
        for label in (0.0, 1.0):
            given = {"pctr": torch.tensor([a], requires_grad=True), "pcvr": torch.tensor([b], requires_grad=True)}
            loss = log_loss(esmm().scores(given)["pctcvr"], torch.tensor([label])).sum()
            loss.backward()
            assert torch.isfinite(loss)
            assert all(torch.isfinite(g.grad).all() for g in given.values())
    given = {"pctr": torch.tensor([80.0], requires_grad=True), "pcvr": torch.tensor([80.0], requires_grad=True)}
    log_loss(esmm().scores(given)["pctcvr"], torch.tensor([0.0])).sum().backward()
    np.testing.assert_allclose(
        given["pctr"].grad, [0.5], rtol=1e-5
    )  # both share the blame: d/da of -log(1 - sig(a) sig(b))


def test_a_rare_conversion_keeps_its_precision():
    given = {"pctr": torch.tensor([-40.0]), "pcvr": torch.tensor([-50.0])}
    np.testing.assert_allclose(esmm().scores(given)["pctcvr"].yes, [-90.0], rtol=1e-6)
