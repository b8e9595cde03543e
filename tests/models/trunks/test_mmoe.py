"""MMoE against a float64 reference of the paper's equations 6 and 7."""

import numpy as np
import torch

from models.trunks.base import TrunkInput
from models.trunks.mmoe import Mmoe

WIDTHS = (5, 3)
HEADS = ("a", "b", "c")
EXPERTS = 4
HIDDEN = (6, 7)


def mmoe(dropout=0.0):
    torch.manual_seed(0)
    return Mmoe(WIDTHS, HEADS, EXPERTS, HIDDEN, dropout).eval()


def f64(t):
    return t.detach().double().numpy()


def reference(model, x):
    """f^k(x) = sum_i g^k(x)_i f_i(x), g^k = softmax(W_gk x), each expert its own ReLU network; x `[n, sum(WIDTHS)]`."""
    w = np.concatenate([f64(p) for p in model.first.weights])
    b = f64(model.first.bias)
    split = EXPERTS * HIDDEN[0]
    experts = []
    for i in range(EXPERTS):
        piece = slice(i * HIDDEN[0], (i + 1) * HIDDEN[0])
        h = np.maximum(x @ w[:, piece] + b[piece], 0)
        for layer in model.rest.layers:
            h = np.maximum(h @ f64(layer.weight)[i] + f64(layer.bias)[i, 0], 0)
        experts.append(h)
    out = []
    for k in range(len(HEADS)):
        piece = slice(split + k * EXPERTS, split + (k + 1) * EXPERTS)
        z = x @ w[:, piece] + b[piece]
        gate = np.exp(z - z.max(1, keepdims=True))
        gate /= gate.sum(1, keepdims=True)
        out.append(sum(gate[:, [i]] * experts[i] for i in range(EXPERTS)))
    return np.stack(out)


def test_equals_the_papers_equation():
    model = mmoe()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, sum(WIDTHS)))
    parts = TrunkInput([torch.from_numpy(x[:, :5]).float(), torch.from_numpy(x[:, 5:]).float()])
    np.testing.assert_allclose(f64(model(parts)), reference(model, x), atol=1e-6)


def test_a_user_part_of_one_row_equals_the_same_row_repeated():
    model = mmoe()
    user = torch.randn(1, 5)
    items = torch.randn(8, 3)
    torch.testing.assert_close(model(TrunkInput([user, items])), model(TrunkInput([user.expand(8, 5), items])))


def test_gates_are_linear_in_the_input():
    model = mmoe()
    rng = np.random.default_rng(1)
    split = EXPERTS * HIDDEN[0]
    a, b = (torch.from_numpy(rng.normal(size=(1, 8))).float() for _ in range(2))

    def gate_logits(x):
        return model.first([x[:, :5], x[:, 5:]])[:, split:]

    torch.testing.assert_close(gate_logits((a + b) / 2), (gate_logits(a) + gate_logits(b)) / 2, atol=1e-5, rtol=1e-5)


def test_experts_start_different_and_every_one_is_used():
    model = mmoe()
    columns = f64(model.first.weights[0])[:, : EXPERTS * HIDDEN[0]].reshape(5, EXPERTS, HIDDEN[0])
    for i in range(EXPERTS):
        for j in range(i):
            assert np.abs(columns[:, i] - columns[:, j]).max() > 1e-3
    with torch.no_grad():
        means = model.gate_means(TrunkInput([torch.randn(64, 5), torch.randn(64, 3)]))
    assert set(means) == set(HEADS)
    for mean in means.values():
        assert mean.shape == (EXPERTS,) and abs(float(mean.sum()) - 1) < 1e-5 and float(mean.min()) > 0.02
