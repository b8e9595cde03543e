"""Tests DCN-V2 against a float64 reference of the paper's equations: forward, gradients, parts, the graph."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_graph_equals_torch, assert_one_row_equals_repeated, weighted
from small_rankers import small

from models.layers.input_part import InputPart
from models.trunks.base import TrunkInput, TrunkSpec
from models.trunks.dcn_v2 import DcnV2, DcnV2Options

WIDTHS = (5, 3)
OVER = (
    {"type": "shared_bottom", "hidden": [6, 4]},
    {"type": "separate", "hidden": [6, 4]},
    {"type": "omoe", "experts": 3, "expert_hidden": [4]},
    {"type": "mmoe", "experts": 3, "expert_hidden": [4]},
    {"type": "ple", "levels": 2},
    {"type": "youtube2019", "shared_width": 4},
)
FORMS = pytest.mark.parametrize("rank", [None, 2])
STRUCTURES = pytest.mark.parametrize("structure", ["stacked", "parallel"])
BOTTOM = OVER[0]


def f64(t):
    return t.detach().double().numpy()


def trunk(layers=3, rank=None, structure="stacked", over=BOTTOM) -> DcnV2:
    torch.manual_seed(0)
    parts = tuple(InputPart(width, i == 1, 4) for i, width in enumerate(WIDTHS))
    options = DcnV2Options(type="dcn_v2", layers=layers, rank=rank, structure=structure, over=over)
    return options.build(TrunkSpec(parts, ("a", "b"), dropout=0.0)).double().eval()


def parts_of(x):
    return TrunkInput([torch.from_numpy(x[:, :5]), torch.from_numpy(x[:, 5:])])


def example(n=9):
    return np.random.default_rng(1).normal(size=(n, sum(WIDTHS)))


def crossed(model, x0):
    """x_{l+1} = x_0 * (W x_l + b) + x_l, with W = U V^T for a low rank."""
    x = x0
    for layer in model.cross:
        if layer.whole is not None:
            w, b = np.concatenate([f64(w) for w in layer.whole.weights]), f64(layer.whole.bias)
        else:
            w = np.concatenate([f64(w) for w in layer.down.weights]) @ f64(layer.up.weight).T
            b = f64(layer.up.bias)
        x = x0 * (x @ w + b) + x
    return x


def bottom(model, x):
    """The ReLU layers of the shared bottom."""
    over = model.over
    x = np.maximum(x @ np.concatenate([f64(w) for w in over.first.weights]) + f64(over.first.bias), 0)
    for layer in over.rest.layers:
        x = np.maximum(x @ f64(layer.weight)[0] + f64(layer.bias)[0], 0)
    return x


@FORMS
@STRUCTURES
def test_equals_the_papers_equations(rank, structure):
    model = trunk(rank=rank, structure=structure)
    x0 = example()
    x_l = crossed(model, x0)
    expected = bottom(model, x_l) if structure == "stacked" else np.concatenate([bottom(model, x0), x_l], 1)
    np.testing.assert_allclose(f64(model(parts_of(x0)))[0], expected, atol=1e-12)
    assert expected.shape[1] == model.out_width


def test_each_layer_raises_the_degree_by_one():
    """Without biases, l layers give polynomials of degree l + 1, whose (l + 2)-th differences are 0."""
    for layers in (1, 2, 3):
        model = trunk(layers=layers)
        with torch.no_grad():
            for layer in model.cross:
                layer.whole.bias.zero_()
        x = example(1)
        scales = np.arange(layers + 3, dtype=float)
        values = np.stack([np.concatenate([f64(p) for p in model.crossed(parts_of(s * x)).parts], 1) for s in scales])
        highest = np.diff(values, layers + 1, axis=0)
        assert np.abs(highest).max() > 1e-3
        np.testing.assert_allclose(np.diff(values, layers + 2, axis=0), 0, atol=1e-9)


def test_without_weights_the_cross_layers_change_nothing():
    model = trunk()
    with torch.no_grad():
        for parameter in model.cross.parameters():
            parameter.zero_()
    x = example()
    torch.testing.assert_close(model(parts_of(x)), model.over(parts_of(x)))


@FORMS
@pytest.mark.parametrize("over", OVER, ids=lambda o: o["type"])
@STRUCTURES
def test_a_user_part_of_one_row_equals_the_same_row_repeated_under_any_trunk(rank, over, structure):
    model = trunk(rank=rank, structure=structure, over=over)
    parts = [torch.randn(rows, width, dtype=torch.float64) for rows, width in ((1, 5), (8, 3))]
    out = assert_one_row_equals_repeated(model, TrunkInput(parts))
    assert out.shape[0] in (1, 2) and out.shape[1:] == (8, model.out_width)


@FORMS
@STRUCTURES
def test_gradients_are_those_of_finite_differences(rank, structure):
    model = trunk(rank=rank, structure=structure)
    x = example()
    assert_gradients(model, lambda: weighted(model(parts_of(x))))


def test_the_gates_of_the_trunk_above_are_reported():
    assert list(trunk(over=OVER[3]).gate_means(parts_of(example()))) == ["a", "b"]
    assert trunk(over=OVER[3]).gating(parts_of(example())) is not None
    assert trunk().gate_means(parts_of(example())) == {} and trunk().gating(parts_of(example())) is None


def test_the_graph_equals_torch_with_a_low_rank_beside_experts():
    options = {"type": "dcn_v2", "rank": 3, "structure": "parallel", "over": OVER[3]}
    assert_graph_equals_torch(small("dcn_v2", trunk=options))
