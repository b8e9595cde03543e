"""YouTube's trunk against a float64 reference of the paper's equations 2 and 3 and section 5.2.4."""

import numpy as np
import torch

from models.layers.gates import drop_experts
from models.trunks.base import TrunkInput
from models.trunks.youtube2019 import Youtube2019

WIDTHS = (5, 3)
HEADS = ("pctr", "plike", "watch_time", "rating")
SHARED = 6
EXPERTS = 3
HIDDEN = (7, 4)


def trunk(expert_dropout=0.1):
    torch.manual_seed(0)
    model = Youtube2019(WIDTHS, HEADS, SHARED, EXPERTS, HIDDEN, dropout=0.0, expert_dropout=expert_dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def f64(t):
    return t.detach().double().numpy()


def reference(model, x):
    """s = relu(W x + b); f^k = sum_i g^k(s)_i f_i(s); g^k = softmax(W_gk s)."""
    s = np.maximum(x @ np.concatenate([f64(w) for w in model.shared.weights]) + f64(model.shared.bias), 0)
    first = f64(model.mixture.first.weights[0])
    bias = f64(model.mixture.first.bias)
    experts = []
    for i in range(EXPERTS):
        place = slice(i * HIDDEN[0], (i + 1) * HIDDEN[0])
        h = np.maximum(s @ first[:, place] + bias[place], 0)
        for layer in model.mixture.rest.layers:
            h = np.maximum(h @ f64(layer.weight)[i] + f64(layer.bias)[i, 0], 0)
        experts.append(h)
    out = []
    for k in range(len(HEADS)):
        place = slice(EXPERTS * HIDDEN[0] + k * EXPERTS, EXPERTS * HIDDEN[0] + (k + 1) * EXPERTS)
        z = s @ first[:, place] + bias[place]
        gate = np.exp(z - z.max(1, keepdims=True))
        gate /= gate.sum(1, keepdims=True)
        out.append(sum(gate[:, [i]] * experts[i] for i in range(EXPERTS)))
    return np.stack(out)


def parts_of(x):
    return TrunkInput([torch.from_numpy(x[:, :5]).float(), torch.from_numpy(x[:, 5:]).float()])


def test_equals_the_papers_equations():
    model = trunk()
    x = np.random.default_rng(0).normal(size=(9, sum(WIDTHS)))
    np.testing.assert_allclose(f64(model(parts_of(x))), reference(model, x), atol=1e-6)


def test_experts_and_gates_read_the_shared_layer_and_nothing_else():
    model = trunk()
    assert [tuple(w.shape) for w in model.mixture.first.weights] == [
        (SHARED, EXPERTS * HIDDEN[0] + len(HEADS) * EXPERTS)
    ]
    with torch.no_grad():
        for weight in model.shared.weights:
            weight.zero_()
    one, other = (parts_of(np.random.default_rng(seed).normal(size=(4, sum(WIDTHS)))) for seed in (1, 2))
    torch.testing.assert_close(model(one), model(other))


def test_a_user_part_of_one_row_equals_the_same_row_repeated():
    model = trunk()
    user = torch.randn(1, 5)
    items = torch.randn(8, 3)
    torch.testing.assert_close(model(TrunkInput([user, items])), model(TrunkInput([user.expand(8, 5), items])))


def test_a_tenth_of_the_experts_is_dropped_in_training_and_none_afterwards():
    model = trunk(expert_dropout=0.5)
    parts = parts_of(np.random.default_rng(3).normal(size=(64, sum(WIDTHS))))
    torch.testing.assert_close(model(parts), model(parts))
    model.train()
    assert (model(parts) - model(parts)).abs().max() > 0.01
    gates = torch.softmax(torch.randn(20_000, EXPERTS), -1)
    dropped = drop_experts(gates, 0.1)
    torch.testing.assert_close(dropped.sum(-1), torch.ones(20_000))
    assert 0.09 < float((dropped == 0).float().mean()) < 0.11
