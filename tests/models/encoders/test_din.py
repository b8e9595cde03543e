"""DIN against a float64 reference of the paper's equation 3."""

import math

import numpy as np
import pytest
import torch
from paper_checks import assert_graph_equals_torch
from pydantic import ValidationError
from small_rankers import small

from models.encoders.base import View
from models.encoders.din import Din, DinOptions

I = 6
P = 4
L = 5


def din(activation="prelu", softmax=False, mean=False, **more):
    torch.manual_seed(0)
    model = Din(I, P, (8, 3), activation, softmax, mean, **more).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def f64(t):
    return t.detach().double().numpy()


def activate(module, x):
    alpha = f64(module.alpha)
    if type(module).__name__ == "PRelu":
        return np.maximum(x, 0) + alpha * np.minimum(x, 0)
    p = 1 / (1 + np.exp(-(x - f64(module.mean)) / np.sqrt(f64(module.variance) + 1e-8)))
    return p * x + (1 - p) * alpha * x


def reference(model, behaviours, mask, target):
    """v_U(A) = sum_j a(e_j, v) e_j for one row, a() on [e, v, e - v, e * v] and the behaviour's properties."""
    unit = model.unit
    raw = []
    for h in behaviours:
        e = h[:I]
        p = h[I:]
        x = (
            np.concatenate([e, target, e - target, e * target]) @ f64(unit.weight)
            + p @ f64(unit.property_weight)
            + f64(unit.bias)
        )
        x = activate(unit.first_activation, x)
        for layer, activation in zip(unit.layers, unit.activations, strict=True):
            x = activate(activation, x @ f64(layer.weight).T + f64(layer.bias))
        raw.append(float(x @ f64(unit.out.weight)[0] + f64(unit.out.bias)[0]))
    raw = np.array(raw)
    if model.softmax:
        z = np.where(mask, raw / math.sqrt(I), -np.inf)
        raw = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    if model.mean:
        raw = raw / mask.sum()
    return (np.where(mask, raw, 0)[:, None] * behaviours).sum(0)


@pytest.mark.parametrize("activation", ["prelu", "dice"])
@pytest.mark.parametrize(("softmax", "mean"), [(False, False), (True, False), (False, True)])
def test_equals_the_papers_equation(activation, softmax, mean):
    model = din(activation, softmax, mean)
    rng = np.random.default_rng(1)
    if activation == "dice":
        with torch.no_grad():
            for module in [model.unit.first_activation, *model.unit.activations]:
                module.variance.abs_().add_(0.5)
    behaviours = rng.normal(size=(7, L, I + P))
    target = rng.normal(size=(7, I))
    mask = rng.random((7, L)) < 0.7
    mask[:, 0] = True
    got = model(View(torch.from_numpy(behaviours).float(), torch.from_numpy(mask), torch.from_numpy(target).float()))
    expected = np.stack([reference(model, behaviours[i], mask[i], target[i]) for i in range(7)])
    np.testing.assert_allclose(f64(got), expected, atol=2e-5)


def test_padding_changes_nothing():
    model = din()
    behaviours = torch.randn(4, L, I + P)
    target = torch.randn(4, I)
    mask = torch.ones(4, L, dtype=torch.bool)
    longer = torch.cat([behaviours, torch.randn(4, 9, I + P)], 1)
    longer_mask = torch.cat([mask, torch.zeros(4, 9, dtype=torch.bool)], 1)
    torch.testing.assert_close(model(View(behaviours, mask, target)), model(View(longer, longer_mask, target)))
    assert (model.weights(longer, longer_mask, target)[:, L:] == 0).all()


def test_weights_are_not_normalised_so_intensity_is_kept():
    model = din()
    one = torch.randn(1, 1, I + P)
    target = torch.randn(1, I)
    once = model(View(one, torch.ones(1, 1, dtype=torch.bool), target))
    twice = model(View(one.expand(1, 2, -1), torch.ones(1, 2, dtype=torch.bool), target))
    torch.testing.assert_close(twice, 2 * once)


def test_the_mean_does_not_grow_with_the_length_of_the_sequence():
    model = din(mean=True)
    one = torch.randn(1, 1, I + P)
    target = torch.randn(1, I)
    once = model(View(one, torch.ones(1, 1, dtype=torch.bool), target))
    many = model(View(one.expand(1, 9, -1), torch.ones(1, 9, dtype=torch.bool), target))
    torch.testing.assert_close(many, once)
    nothing = model(View(one[:, :0], torch.ones(1, 0, dtype=torch.bool), target))
    assert (nothing == 0).all()


def test_the_context_is_read_by_the_unit_and_not_summed():
    """The sum of a network whose properties end with the context, without the context's own part."""
    model = din(context_width=3)
    rng = np.random.default_rng(4)
    behaviours, target, context = (rng.normal(size=shape) for shape in ((7, L, I + P), (7, I), (7, 3)))
    mask = np.ones((7, L), dtype=bool)
    numbers = [torch.from_numpy(a).float() for a in (behaviours, target, context)]
    view = View(numbers[0], torch.from_numpy(mask), numbers[1], None, numbers[2])
    got = model(view)
    with_context = np.concatenate([behaviours, np.repeat(context[:, None], L, 1)], -1)
    for i in range(7):
        expected = reference(model, with_context[i], mask[i], target[i])[: I + P]
        np.testing.assert_allclose(f64(got)[i], expected, atol=2e-5)
    one = View(view.behaviours[:1], view.mask[:1], view.target, None, view.context[:1])
    repeated = View(*(t.expand(7, *t.shape[1:]) for t in one[:2]), view.target, None, one.context.expand(7, 3))
    torch.testing.assert_close(model(one), model(repeated))


def test_normalised_activations_read_real_behaviours_and_are_folded_into_the_weights():
    model = din(batch_norm=True).train()
    behaviours = torch.randn(40, L, I + P)
    mask = torch.rand(40, L) < 0.7
    view = View(behaviours, mask, torch.randn(40, I))
    model(view)
    other = din(batch_norm=True).train()
    other(view._replace(behaviours=torch.where(mask.unsqueeze(-1), behaviours, 1e3)))
    torch.testing.assert_close(other.unit.norms[0].mean, model.unit.norms[0].mean)
    model.eval()
    one = View(behaviours[:1], torch.ones(1, L, dtype=torch.bool), torch.randn(6, I))
    repeated = View(one.behaviours.expand(6, L, -1), one.mask.expand(6, L), one.target)
    torch.testing.assert_close(model(one), model(repeated), atol=1e-4, rtol=1e-4)
    assert (model(one) - din()(one)).abs().max() > 0.01


def test_dice_takes_no_further_normalisation():
    with pytest.raises(ValidationError, match="dice normalises over the batch by itself"):
        DinOptions(type="din", activation="dice", batch_norm=True)


def test_a_ranker_with_both_scores_in_the_graph_as_in_torch():
    encoder = {"type": "din", "hidden": [8, 4], "context": True, "batch_norm": True}
    assert_graph_equals_torch(small("mmoe", encoders=[encoder]))


def test_two_ways_to_normalise_are_refused():
    with pytest.raises(ValidationError, match="softmax and mean are two ways to normalise"):
        DinOptions(type="din", softmax=True, mean=True)


def test_one_user_for_all_candidates_equals_the_user_repeated():
    model = din()
    behaviours = torch.randn(1, L, I + P)
    targets = torch.randn(6, I)
    mask = torch.tensor([[True, True, True, False, False]])
    repeated = View(behaviours.expand(6, L, -1), mask.expand(6, L), targets)
    torch.testing.assert_close(model(View(behaviours, mask, targets)), model(repeated))


def test_no_behaviours_give_a_zero_vector():
    got = din()(View(torch.zeros(1, 0, I + P), torch.zeros(1, 0, dtype=torch.bool), torch.randn(3, I)))
    assert got.shape == (3, I + P) and (got == 0).all()
