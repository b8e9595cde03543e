"""ESM2's task structure against a float64 reference of the paper's equations 5 to 8."""

import numpy as np
import torch

from models.layers.probability import log_loss
from models.structures.esm2 import Esm2, Esm2Options


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def esm2():
    return Esm2(Esm2Options(type="esm2", click="click", action="cart", conversion="buy"))


def logits(n=200, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return {h: (torch.randn(n, generator=generator) * 3).requires_grad_(requires_grad) for h in Esm2.heads}


def reference(given):
    y1, y2, y3, y4 = (sigmoid(given[h].detach()) for h in Esm2.heads)
    pcvr = (1 - y2) * y4 + y2 * y3
    return {"pctr": y1, "pctavr": y1 * y2, "pcvr": pcvr, "pctcvr": y1 * pcvr}


def test_outputs_are_the_papers_equations():
    given = logits()
    scores = esm2().scores(given)
    for name, expected in reference(given).items():
        np.testing.assert_allclose(scores[name].yes.exp(), expected, atol=1e-6)
        np.testing.assert_allclose(scores[name].no.exp(), 1 - expected, atol=1e-6)


def test_the_funnel_never_widens():
    scores = {n: s.yes for n, s in esm2().scores(logits(seed=3)).items()}
    assert (scores["pctavr"] <= scores["pctr"]).all()
    assert (scores["pctcvr"] <= scores["pctr"]).all()


def test_three_entire_space_losses_and_none_on_the_inner_probabilities():
    trained = {o.name: o.label for o in esm2().outputs if o.trained}
    assert trained == {"pctr": ("click",), "pctavr": ("click", "cart"), "pctcvr": ("click", "buy")}
    assert all(o.space == () for o in esm2().outputs if o.trained)


def test_every_loss_reaches_the_probabilities_of_its_equation_and_no_other():
    reached = {"pctr": {"pctr"}, "pctavr": {"pctr", "y2"}, "pctcvr": {"pctr", "y2", "y3", "y4"}}
    for output, heads in reached.items():
        given = logits(seed=5, requires_grad=True)
        log_loss(esm2().scores(given)[output], torch.ones(200)).sum().backward()
        assert {h for h, t in given.items() if t.grad is not None and t.grad.abs().sum() > 0} == heads


def test_gradients_are_finite_at_extreme_logits():
    for signs in np.ndindex(2, 2, 2, 2):
        given = {
            h: torch.tensor([80.0 if s else -80.0], requires_grad=True) for h, s in zip(Esm2.heads, signs, strict=True)
        }
        scores = esm2().scores(given)
        loss = sum(
            log_loss(scores[n], torch.tensor([y])).sum() for n in ("pctr", "pctavr", "pctcvr") for y in (0.0, 1.0)
        )
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(t.grad).all() for t in given.values())
