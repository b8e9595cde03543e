"""Tests linear layers with batch normalisation against torch's, what their statistics become, and folding."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from paper_checks import assert_gradients, weighted
from small_rankers import raw_inputs, score, small, training_batch

from export.graph import to_onnx
from models.layers.linear import GroupedMlp, PartLinear
from models.layers.normalisation import BatchNorm, NormalisedLinear
from models.recipe import RecipeError
from models.training.updates.averaging import estimate_statistics

PLACES = ["trunk", "towers"]
TRUNKS = pytest.mark.parametrize("architecture", ["mmoe", "omoe", "ple", "cgc", "shared_bottom", "single_task"])


def layer(groups=2):
    torch.manual_seed(0)
    model = NormalisedLinear(groups, 5, 3).double()
    with torch.no_grad():
        model.gamma.uniform_(0.5, 2)
        model.beta.normal_()
    return model


def theirs(model, group):
    norm = torch.nn.BatchNorm1d(3, momentum=0.1).double()
    with torch.no_grad():
        norm.weight.copy_(model.gamma[group, 0])
        norm.bias.copy_(model.beta[group, 0])
    return norm


def test_equals_torchs_normalisation_in_training_and_after():
    """torch's running variance is the unbiased one: the test compares with the same correction."""
    model = layer()
    norms = [theirs(model, group) for group in range(2)]
    batches = [torch.randn(2, 40, 5, dtype=torch.float64) * 3 + 1 for _ in range(4)]
    for x in batches:
        out = model.train()(x)
        for group, norm in enumerate(norms):
            torch.testing.assert_close(out[group], norm.train()(x[group] @ model.weight[group]))
    for group, norm in enumerate(norms):
        torch.testing.assert_close(model.mean[group, 0], norm.running_mean)
        own = model.variance[group, 0]
        start = 0.9 ** len(batches)
        torch.testing.assert_close((own - start) * 40 / 39 + start, norm.running_var)
        norm.running_var.copy_(own)
        out = model.eval()(batches[0])[group]
        torch.testing.assert_close(out, norm.eval()(batches[0][group] @ model.weight[group]))


def test_a_batch_of_one_row_is_normalised_by_the_running_statistics_and_leaves_them():
    model = layer().train()
    model(torch.randn(2, 40, 5, dtype=torch.float64))
    mean = model.mean.clone()
    x = torch.randn(2, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x), model.eval()(x))
    torch.testing.assert_close(model.mean, mean)


def test_gradients_are_those_of_finite_differences():
    model = layer().train()
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    assert_gradients(model, lambda: weighted(model(x)))


def drawn(module):
    """Random weights and statistics, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, BatchNorm):
                norm.gamma.uniform_(0.5, 2.0, generator=generator)
                norm.beta.normal_(generator=generator)
                norm.mean.normal_(generator=generator)
                norm.variance.uniform_(0.2, 3.0, generator=generator)
    return module


def normed(architecture="mmoe"):
    model = small(architecture, batch_norm=PLACES)
    drawn(model.ranker)
    return model


def f64(t):
    return t.detach().double().numpy()


@pytest.mark.parametrize("groups", [None, 3])
def test_training_normalises_by_the_batch_and_serving_by_the_averages(groups):
    norm = drawn(BatchNorm(5, groups)).double()
    x = np.random.default_rng(0).normal(2, 3, (*(() if groups is None else (groups,)), 40, 5))
    gamma, beta = f64(norm.gamma), f64(norm.beta)

    def reference(mean, variance):
        return gamma * (x - mean) / np.sqrt(variance + norm.eps) + beta

    before = f64(norm.mean).copy()
    norm.eval()
    np.testing.assert_allclose(f64(norm(torch.from_numpy(x))), reference(before, f64(norm.variance)))
    norm.train()
    mean, variance = x.mean(-2, keepdims=True), x.var(-2, keepdims=True)
    np.testing.assert_allclose(f64(norm(torch.from_numpy(x))), reference(mean, variance))
    np.testing.assert_allclose(f64(norm.mean), 0.9 * before + 0.1 * mean)


def test_masked_places_are_normalised_and_enter_no_statistics():
    norm = BatchNorm(3).train()
    y = torch.randn(6, 4, 3)
    mask = torch.rand(6, 4) < 0.6
    out = norm(torch.where(mask.unsqueeze(-1), y, 100.0), mask)
    torch.testing.assert_close(out[mask].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.mean, 0.1 * y[mask].mean(0, keepdim=True))


def test_folded_weights_give_the_numbers_of_the_two_steps():
    parts = drawn(PartLinear((4, 6), 10, normed=7)).eval()
    mlp = drawn(GroupedMlp(3, (5, 8, 6, 2), 0.0, last_linear=True, batch_norm=True)).eval()
    assert len(mlp.norms) == 2, "the last layer is linear"
    user, items, grouped = torch.randn(1, 4), torch.randn(9, 6), torch.randn(3, 9, 5)
    with torch.no_grad():
        plain = user @ parts.weights[0] + items @ parts.weights[1] + parts.bias
        expected = torch.cat([parts.norm(plain[:, :7]), plain[:, 7:]], -1)
        torch.testing.assert_close(parts([user, items]), expected, atol=1e-5, rtol=1e-5)
        x = grouped
        for layer, norm in zip(mlp.layers, mlp.norms, strict=False):
            x = torch.relu(norm(layer(x)))
        torch.testing.assert_close(mlp(grouped), mlp.layers[-1](x), atol=1e-5, rtol=1e-5)


@TRUNKS
def test_every_trunk_that_takes_it_has_it_in_its_layers_and_towers(architecture):
    model = normed(architecture)
    names = [n for n, _ in model.ranker.named_parameters()]
    assert any(n.startswith("trunk.") and n.endswith("gamma") for n in names)
    assert any(n.startswith("towers.") and n.endswith("gamma") for n in names)
    batch = training_batch(model, 64, 3)
    with torch.no_grad():
        before = model.ranker(batch)
        # The statistics are those of the batch: training and serving then score alike.
        model.ranker.train()
        for norm in model.ranker.modules():
            if isinstance(norm, BatchNorm):
                norm.momentum = 1.0
        in_training = model.ranker(batch)
        after = model.ranker.eval()(batch)
    for name, value in after.items():
        torch.testing.assert_close(value, in_training[name], atol=1e-4, rtol=1e-4)
        assert (value - before[name]).abs().max() > 1e-3


def test_a_recipe_without_it_has_the_weights_of_before():
    assert not [n for n in small("mmoe").ranker.state_dict() if "norm" in n]
    with_it = small("mmoe", batch_norm=PLACES, wide=False).ranker.state_dict()
    for name, value in small("mmoe", wide=False).ranker.state_dict().items():
        assert torch.equal(with_it[name], value), name


def test_the_graph_scores_as_torch_does_and_has_no_normalisation():
    model = normed()
    graph = to_onnx(model.graph, model.encoding)
    assert not [tensor.name for tensor in graph.graph.initializer if "norm" in tensor.name]
    session = ort.InferenceSession(graph.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    for c in (1, 7, 64):
        inputs = raw_inputs(model, c, 5, seed=c)
        got = dict(zip(names, session.run(names, inputs), strict=True))
        for name, values in score(model, inputs).items():
            np.testing.assert_allclose(got[name], values, atol=1e-5)


def test_estimated_statistics_are_the_means_over_the_batches():
    model = normed("shared_bottom").ranker
    batches = [training_batch(small("shared_bottom"), 64, 3, seed=s) for s in range(3)]
    means = []
    for batch in batches:
        parts = model.trunk_input(batch).parts
        x = torch.cat(list(parts), -1) @ torch.cat(list(model.trunk.first.weights)) + model.trunk.first.bias
        means.append(x.mean(0, keepdim=True))
    model.eval()
    estimate_statistics(model, lambda: batches)
    torch.testing.assert_close(model.trunk.first.norm.mean, torch.stack(means).mean(0).detach())


def test_a_trunk_without_it_is_refused():
    with pytest.raises(RecipeError, match=r"model\.batch_norm: the trunk 'star' has none"):
        small("star", batch_norm=["trunk"])
    assert len(small("star", batch_norm=["towers"]).ranker.towers.norms) == 1
