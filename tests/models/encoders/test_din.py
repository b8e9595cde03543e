"""DIN against a float64 reference of the paper's equation 3."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.encoders.base import View
from models.encoders.din import Din, DinOptions

I = 6
P = 4
L = 5


def din(activation="prelu", softmax=False, mean=False):
    torch.manual_seed(0)
    model = Din(I, P, (8, 3), activation, softmax, mean).eval()
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
