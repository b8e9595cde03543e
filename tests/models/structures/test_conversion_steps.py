"""Tests conversion steps: the loss against a float64 reference, what the calibrator punishes, labels, refusals."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_rankers import STEPS, small, training_batch

from models.network.build import build_model
from models.network.losses import label_of
from models.recipe import Recipe
from models.structures.conversion_steps import ConversionStepsOptions

ALPHA = 0.6


def structure(steps=STEPS, **more):
    raw = {"type": "conversion_steps", "steps": [{"name": n, "label": c} for n, c in steps.items()]}
    return ConversionStepsOptions.model_validate(raw | more).build(None)


def examples(n=40, seed=0):
    rng = np.random.default_rng(seed)
    logits = {name: rng.normal(size=n) for name in STEPS}
    labels = {f"label/{column}": rng.integers(0, 2, n).astype(float) for column in STEPS.values()}
    return logits, labels


def losses_of(steps, logits, labels):
    """The losses by step, as the objective takes them."""
    torch_logits = {name: torch.from_numpy(z).requires_grad_() for name, z in logits.items()}
    batch = {name: torch.from_numpy(y) for name, y in labels.items()}
    scores = steps.scores(torch_logits)
    losses = {}
    for output in steps.outputs:
        label = label_of(batch, output.label)
        if output.correction is None:
            losses[output.name] = output.kind.loss(scores[output.name], label).mean()
        else:
            losses[output.name] = output.correction.loss(scores[output.name], label, batch, torch_logits)
    return losses, torch_logits


def reference(logits, labels, alpha=ALPHA):
    """log loss(y_t) + alpha mean(max(y_t - y_{t-1}, 0)), where a step counts only after all steps before it."""
    losses = {}
    happened = 1.0
    before = None
    for name, column in STEPS.items():
        happened = happened * labels[f"label/{column}"]
        y = 1 / (1 + np.exp(-logits[name]))
        loss = -(happened * np.log(y) + (1 - happened) * np.log(1 - y)).mean()
        losses[name] = loss if before is None else loss + alpha * np.maximum(y - before, 0).mean()
        before = y
    return losses


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_the_loss_is_the_papers(alpha):
    logits, labels = examples()
    losses, _ = losses_of(structure(calibrator=alpha), logits, labels)
    for name, expected in reference(logits, labels, alpha).items():
        assert losses[name].item() == pytest.approx(expected, abs=1e-12)


def test_the_calibrator_has_the_gradient_of_finite_differences_in_both_steps():
    logits, labels = examples()
    losses, given = losses_of(structure(), logits, labels)
    sum(losses.values()).backward()
    for name in STEPS:
        for i in range(5):
            moved = {n: z.copy() for n, z in logits.items()}
            ends = []
            for step in (1e-6, -1e-6):
                moved[name][i] = logits[name][i] + step
                ends.append(sum(reference(moved, labels).values()))
            assert float(given[name].grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


def test_a_step_below_the_one_before_is_not_punished():
    logits = {"pctr": np.array([2.0]), "pctavr": np.array([0.0]), "pctcvr": np.array([-2.0])}
    labels = {f"label/{column}": np.array([1.0]) for column in STEPS.values()}
    plain, _ = losses_of(structure(calibrator=0.0), logits, labels)
    bounded, _ = losses_of(structure(calibrator=5.0), logits, labels)
    assert {n: v.item() for n, v in plain.items()} == {n: v.item() for n, v in bounded.items()}


def test_the_steps_become_nested_where_their_heads_disagree_with_it():
    """Two heads that start in the wrong order, and labels that say nothing: the calibrator alone moves them."""
    logits = {"a": torch.zeros(1, requires_grad=True), "b": torch.full((1,), 2.0, requires_grad=True)}
    steps = structure({"a": "x", "b": "y"}, calibrator=1.0)
    bound = steps.outputs[1].correction
    optimiser = torch.optim.SGD(logits.values(), lr=1.0)
    for _ in range(200):
        scores = steps.scores(logits)
        optimiser.zero_grad()
        (bound.loss(scores["b"], scores["b"].yes.exp().detach(), {}, logits)).backward()
        optimiser.step()
    scores = steps.scores(logits)
    assert scores["b"].yes.exp() <= scores["a"].yes.exp() + 0.01


def test_the_outputs_are_named_and_estimate_all_steps_up_to_theirs():
    outputs = structure().outputs
    assert [(output.name, output.label) for output in outputs] == [
        ("pctr", ("click",)),
        ("pctavr", ("click", "cart")),
        ("pctcvr", ("click", "cart", "like")),
    ]


def test_a_list_loss_goes_with_the_calibrator():
    plain = small("aitm")
    raw = plain.recipe.model_dump(mode="json")
    raw["data"]["request_id"] = "request"
    raw["training"]["list_losses"] = {"pctcvr": {"type": "pairwise"}}
    with_lists = build_model(Recipe.model_validate(raw), plain.encoding)
    with_lists.load_state_dict(plain.ranker.state_dict())
    batch = training_batch(plain, 32, 3) | {"group": torch.arange(32) // 8}
    losses = with_lists.eval().losses(batch)
    expected = plain.ranker.losses(batch)
    assert losses["pctcvr"] > expected["pctcvr"]
    assert losses["pctr"] == expected["pctr"] and losses["pctavr"] == expected["pctavr"]


def test_one_step_is_refused():
    with pytest.raises(ValidationError, match="at least 2 items"):
        structure({"pctr": "click"})
