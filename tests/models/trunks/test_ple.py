"""CGC and PLE against a float64 reference of the paper's equations 1 to 7."""

import numpy as np
import pytest
import torch

from models.trunks.base import TrunkInput
from models.trunks.ple import Ple

WIDTHS = (5, 3)
HEADS = ("a", "b")
OWN = 2
SHARED = 3
HIDDEN = (6, 4)
ALL = len(HEADS) * OWN + SHARED
SEEN = OWN + SHARED


def ple(levels):
    torch.manual_seed(0)
    model = Ple(WIDTHS, HEADS, levels, OWN, SHARED, HIDDEN, 0.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.6)
    return model


def f64(t):
    return t.detach().double().numpy()


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def stack_of(k):
    """S^k: task k's own experts, then the shared ones."""
    return [*range(k * OWN, (k + 1) * OWN), *range(len(HEADS) * OWN, ALL)]


def mlp(layers, i, h):
    for layer in layers:
        h = np.maximum(h @ f64(layer.weight)[i] + f64(layer.bias)[i, 0], 0)
    return h


def first_level(model, x, last):
    w = np.concatenate([f64(p) for p in model.first.first.weights])
    b = f64(model.first.first.bias)
    z = x @ w + b
    width = HIDDEN[0]
    experts = [mlp(model.first.rest.layers, i, np.maximum(z[:, i * width : (i + 1) * width], 0)) for i in range(ALL)]
    start = ALL * width
    gates = [softmax(z[:, start + k * SEEN : start + (k + 1) * SEEN]) for k in range(len(HEADS))]
    shared_gate = None if last else softmax(z[:, start + len(HEADS) * SEEN :])
    return fuse(experts, gates, shared_gate)


def next_level(level, heads, shared, last):
    inputs = [heads[k] for k in range(len(HEADS)) for _ in range(OWN)] + [shared] * SHARED
    experts = [mlp(level.experts.layers, i, inputs[i]) for i in range(ALL)]
    gates = [softmax(heads[k] @ f64(level.gates.weight)[k] + f64(level.gates.bias)[k, 0]) for k in range(len(HEADS))]
    shared_gate = None if last else softmax(shared @ f64(level.shared_gate.weight).T + f64(level.shared_gate.bias))
    return fuse(experts, gates, shared_gate)


def fuse(experts, gates, shared_gate):
    heads = [sum(gates[k][:, [j]] * experts[i] for j, i in enumerate(stack_of(k))) for k in range(len(HEADS))]
    return heads, None if shared_gate is None else sum(shared_gate[:, [i]] * experts[i] for i in range(ALL))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_equals_the_papers_equations(levels):
    model = ple(levels)
    x = np.random.default_rng(0).normal(size=(9, sum(WIDTHS)))
    heads, shared = first_level(model, x, last=levels == 1)
    for j, level in enumerate(model.levels, start=2):
        heads, shared = next_level(level, heads, shared, last=j == levels)
    got = model(TrunkInput([torch.from_numpy(x[:, :5]).float(), torch.from_numpy(x[:, 5:]).float()]))
    np.testing.assert_allclose(f64(got), np.stack(heads), atol=1e-5)


def test_the_last_level_has_no_shared_gate():
    assert ple(1).first.shared_gate == 0
    model = ple(3)
    assert model.first.shared_gate == ALL
    assert model.levels[0].shared_gate is not None and model.levels[1].shared_gate is None


def test_another_tasks_own_experts_do_not_reach_a_task_in_cgc():
    model = ple(1)
    parts = TrunkInput([torch.randn(4, 5), torch.randn(4, 3)])
    before = model(parts)
    with torch.no_grad():
        model.first.rest.layers[0].weight[OWN : 2 * OWN].normal_()  # task b's own experts
    after = model(parts)
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3


def test_gate_means_are_those_of_the_last_level():
    model = ple(2)
    parts = [torch.randn(30, 5), torch.randn(30, 3)]
    with torch.no_grad():
        means = model.gate_means(TrunkInput(parts))
        heads, _ = model.first(parts)
        expected = model.levels[0].head_gates(heads).mean(1)
    for k, head in enumerate(HEADS):
        torch.testing.assert_close(means[head], expected[k])
        assert means[head].shape == (SEEN,)
