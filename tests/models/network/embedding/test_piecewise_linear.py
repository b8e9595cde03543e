"""Tests the piecewise-linear encoding: its values against float64, its edges, its gradients, and its graph."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from small_rankers import raw_inputs, score, small

from export.graph import to_onnx
from export.parity import check_parity
from models.data.cache import open_data
from models.data.encoding.encoding import quantile_edges
from models.network.embedding.groups import GroupEmbedding
from models.network.embedding.piecewise_linear import PiecewiseLinear

SECTION = {"dim": 4, "unknown_rate": 0.0, "numerics": {"encoding": "piecewise_linear", "bins": 3}}
STEP = np.nextafter(np.float32(0), np.float32(1))  # the edges of a value that makes up most of a column


def _reference(raw: np.ndarray, edges: np.ndarray, layer: PiecewiseLinear) -> np.ndarray:
    """Equation 1 of the paper in float64, value by value, each component clipped to 0..1; then the linear layers."""
    weight, bias, missing = (p.detach().double().numpy() for p in (layer.weight, layer.bias, layer.missing))
    out = np.zeros((len(raw), *bias.shape))
    for i, row in enumerate(raw):
        for k, column in enumerate(layer.columns):
            if np.isnan(row[column]):
                out[i, k] = missing[k]
                continue
            b = edges[column][np.isfinite(edges[column])].astype(np.float64)
            e = np.zeros(weight.shape[1])
            for t in range(1, len(b)):
                e[t - 1] = min(max((float(row[column]) - b[t - 1]) / (b[t] - b[t - 1]), 0.0), 1.0)
            out[i, k] = e @ weight[k] + bias[k]
    return out.reshape(len(raw), -1)


def test_numbers_are_encoded_as_the_paper_does_and_a_missing_one_has_its_own_vector():
    edges = np.full((4, 5), np.inf, np.float32)
    edges[0] = [-2, -1, 0.5, 3, 100]
    edges[2, :4] = [0, STEP, 1.5, 7]
    edges[3, 0] = 4  # one value in all of training
    layer = PiecewiseLinear(edges, 3)
    torch.nn.init.normal_(layer.missing)
    rng = np.random.default_rng(0)
    raw = np.concatenate([rng.normal(size=(200, 4)) * 5, [[0.5] * 4, [0] * 4, [1e38] * 4, [-1e38] * 4]])
    raw[rng.random(raw.shape) < 0.2] = np.nan
    raw = raw.astype(np.float32)
    got = layer(torch.from_numpy(raw)).detach().numpy()
    assert layer.columns == [0, 2, 3]
    np.testing.assert_allclose(got, _reference(raw, edges, layer), atol=2e-6)


def test_the_components_are_between_0_and_1_and_a_common_value_stays_apart_from_what_is_above_it():
    layer = PiecewiseLinear(np.array([[0, STEP, 2, 4]], np.float32), 2)
    got = layer.encoded(torch.tensor([[-5.0], [0.0], [1e-20], [1.0], [3.0], [1e30]]))[:, 0]
    np.testing.assert_allclose(got, [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 1, 0.5], [1, 1, 1]], atol=1e-6)


def test_training_moves_the_weights_with_finite_gradients_where_numbers_are_missing():
    layer = PiecewiseLinear(np.array([[0, 1, 2], [0, STEP, 9]], np.float32), 2)
    layer(torch.tensor([[torch.nan, 1.0], [1.5, torch.nan], [-1e30, 1e30]])).sum().backward()
    for parameter in layer.parameters():
        assert torch.isfinite(parameter.grad).all()
    torch.testing.assert_close(layer.missing.grad, torch.ones(2, 2))


def test_the_ends_of_a_column_are_edges_beside_the_quantiles():
    values = np.array([[float(i)] for i in range(1, 41)], np.float32)
    np.testing.assert_array_equal(quantile_edges(values, np.ones(40), [4], ends=True), [[1, 11, 21, 31, 40]])
    unused = np.where(np.arange(40) < 39, 1, 0)
    assert quantile_edges(values, unused, [4], ends=True).max() == 39
    np.testing.assert_array_equal(quantile_edges(values[:1], np.ones(1), [4], ends=True), [[1.0]])


@pytest.mark.parametrize("architecture", ["mmoe", "nfwfm", "dupn"])
def test_the_graph_scores_as_torch_does_over_the_grid(architecture):
    model = small(architecture, embedding=SECTION)
    pool = [raw_inputs(model, 1, 4, seed=i) for i in range(20)]
    rows = {name: np.concatenate([one[name] for one in pool]) for name in pool[0]}
    graph = to_onnx(model.graph, model.encoding).SerializeToString()
    parity = check_parity(model.graph, graph, model.encoding.schema, rows, 1)
    assert parity.max_abs_difference <= parity.tolerance
    inputs = raw_inputs(model, 9, 3)
    missing = inputs | {"item_numerics": np.full_like(inputs["item_numerics"], np.nan)}
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for name, expected in score(model, missing).items():
        np.testing.assert_allclose(session.run([name], missing)[0], expected, atol=1e-5)


def test_a_recipe_sets_the_bins_of_every_number_and_its_own_stand_before_them(tiny_recipe, tables, tmp_path):
    plain = open_data(tiny_recipe(tables), tmp_path / "cache")
    section = {"model.embedding.numerics": {"encoding": "piecewise_linear", "bins": 3}}
    data = open_data(tiny_recipe(tables, section), tmp_path / "cache")
    assert plain.described["hash"] != data.described["hash"]
    numeric = [f for f in data.recipe.features.item if f.type == "numeric"]
    values = data.item_numerics[np.unique(data.parts["train"].item)]
    for column, feature in enumerate(numeric):
        edges = data.encoding.numerics["item"].edges[column]
        edges = edges[np.isfinite(edges)]
        assert 2 <= len(edges) <= (feature.bins or 3) + 3  # the ends, and a common value's own pair
        assert edges[0] == np.nanmin(values[:, column])
        assert edges[-1] == np.nanmax(values[:, column])


def test_the_default_leaves_a_recipe_and_the_group_as_they_were():
    assert "numerics" not in small("mmoe").recipe.model_dump(mode="json")["model"]["embedding"]
    group = small("mmoe", embedding=SECTION).ranker.inputs.groups["item"]
    assert isinstance(group, GroupEmbedding)
    assert isinstance(group.bins, PiecewiseLinear)
    assert group.width == group.keys.pieces * 4 + 2 + 4
