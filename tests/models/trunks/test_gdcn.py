"""Tests GDCN against a float64 reference of the paper's equations: forward, gradients, gates, parts."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_one_row_equals_repeated, weighted

from models.layers.input_part import InputPart
from models.trunks.base import TrunkInput, TrunkSpec
from models.trunks.dcn_v2 import DcnV2Options
from models.trunks.gdcn import Gdcn, GdcnOptions

WIDTHS = (5, 3)
STRUCTURES = pytest.mark.parametrize("structure", ["stacked", "parallel"])
BOTTOM = {"type": "shared_bottom", "hidden": [6, 4]}
EXPERTS = {"type": "mmoe", "experts": 3, "expert_hidden": [4]}


def f64(t):
    return t.detach().double().numpy()


def spec():
    parts = tuple(InputPart(width, i == 1, 4) for i, width in enumerate(WIDTHS))
    return TrunkSpec(parts, ("a", "b"), dropout=0.0)


def trunk(layers=3, structure="stacked", over=BOTTOM) -> Gdcn:
    torch.manual_seed(0)
    options = GdcnOptions(type="gdcn", layers=layers, structure=structure, over=over)
    return options.build(spec()).double().eval()


def parts_of(x):
    return TrunkInput([torch.from_numpy(x[:, :5]), torch.from_numpy(x[:, 5:])])


def example(n=9):
    return np.random.default_rng(1).normal(size=(n, sum(WIDTHS)))


def whole(layer):
    return np.concatenate([f64(w) for w in layer.weights])


def crossed(model, c0):
    """c_{l+1} = c_0 * (W c_l + b) * sigmoid(G c_l) + c_l."""
    c = c0
    for layer in model.cross:
        gates = 1 / (1 + np.exp(-(c @ whole(layer.gate))))
        c = c0 * (c @ whole(layer.product) + f64(layer.product.bias)) * gates + c
    return c


def bottom(model, x):
    """The ReLU layers of the shared bottom."""
    over = model.over
    x = np.maximum(x @ whole(over.first) + f64(over.first.bias), 0)
    for layer in over.rest.layers:
        x = np.maximum(x @ f64(layer.weight)[0] + f64(layer.bias)[0], 0)
    return x


@STRUCTURES
def test_equals_the_papers_equations(structure):
    model = trunk(structure=structure)
    c0 = example()
    c_l = crossed(model, c0)
    expected = bottom(model, c_l) if structure == "stacked" else np.concatenate([bottom(model, c0), c_l], 1)
    np.testing.assert_allclose(f64(model(parts_of(c0)))[0], expected, atol=1e-12)
    assert expected.shape[1] == model.out_width


def test_half_open_gates_are_dcn_v2_with_half_its_products():
    """Without weights every gate is sigmoid(0)."""
    model = trunk()
    plain = DcnV2Options(type="dcn_v2", layers=3, over=BOTTOM).build(spec()).double().eval()
    plain.over.load_state_dict(model.over.state_dict())
    with torch.no_grad():
        for gated, layer in zip(model.cross, plain.cross, strict=True):
            for weight in gated.gate.weights:
                weight.zero_()
            for weight, own in zip(layer.whole.weights, gated.product.weights, strict=True):
                weight.copy_(own / 2)
            layer.whole.bias.copy_(gated.product.bias / 2)
    x = parts_of(example())
    torch.testing.assert_close(model(x), plain(x))


def test_a_closed_gate_lets_no_product_through_and_keeps_the_rest():
    model = trunk(layers=1)
    (layer,) = model.cross
    x = example(1)
    with torch.no_grad():
        for weight, part in zip(layer.gate.weights, parts_of(x).parts, strict=True):
            weight[:, :4] -= 1e3 * part.T  # the first four columns get a large negative number
    out = np.concatenate([f64(part) for part in model.crossed(parts_of(x)).parts], 1)
    np.testing.assert_array_equal(out[:, :4], x[:, :4])
    assert (np.abs(out[:, 4:] - x[:, 4:]) > 1e-6).all()


def test_gates_start_half_open_and_stay_between_zero_and_one():
    torch.manual_seed(0)
    parts = (InputPart(40, False, 8), InputPart(24, True, 8))
    layer = GdcnOptions(type="gdcn").build(TrunkSpec(parts, ("a",), 0.0)).cross[0]
    with torch.no_grad():
        gates = layer.gates([torch.randn(500, 40), torch.randn(500, 24)])
        extreme = layer.gates([1e4 * torch.randn(500, 40), torch.randn(500, 24)])
    assert abs(gates.mean() - 0.5) < 0.02 and (gates - 0.5).abs().max() < 0.5
    assert extreme.min() >= 0 and extreme.max() <= 1


@pytest.mark.parametrize("over", [BOTTOM, EXPERTS], ids=lambda o: o["type"])
@STRUCTURES
def test_a_user_part_of_one_row_equals_the_same_row_repeated(over, structure):
    parts = [torch.randn(rows, width, dtype=torch.float64) for rows, width in ((1, 5), (8, 3))]
    assert_one_row_equals_repeated(trunk(structure=structure, over=over), TrunkInput(parts))


@STRUCTURES
def test_gradients_are_those_of_finite_differences(structure):
    model = trunk(structure=structure)
    x = example()
    assert_gradients(model, lambda: weighted(model(parts_of(x))))
