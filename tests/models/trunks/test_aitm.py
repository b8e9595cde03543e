"""Tests AITM against a float64 reference of the paper's equations: forward, gradients, what reaches which head."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_one_row_equals_repeated, weighted

from models.layers.input_part import InputPart
from models.trunks.aitm import Aitm, AitmOptions
from models.trunks.base import TrunkInput, TrunkSpec

WIDTHS = (5, 3)
HEADS = ("click", "cart", "buy")
HIDDEN = (6, 4)


def f64(t):
    return t.detach().double().numpy()


def trunk(heads=HEADS) -> Aitm:
    torch.manual_seed(0)
    parts = tuple(InputPart(width, i == 1, 4) for i, width in enumerate(WIDTHS))
    model = AitmOptions(type="aitm", hidden=HIDDEN).build(TrunkSpec(parts, heads, dropout=0.0)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def parts_of(x):
    return TrunkInput([torch.from_numpy(x[:, :5]), torch.from_numpy(x[:, 5:])])


def example(n=9):
    return np.random.default_rng(1).normal(size=(n, sum(WIDTHS)))


def linear(layer, x):
    return x @ f64(layer.weight).T + f64(layer.bias)


def own_vector(model, x, head):
    """q_t of one impression: the ReLU layers of a head."""
    of = slice(head * HIDDEN[0], (head + 1) * HIDDEN[0])
    weight = np.concatenate([f64(w) for w in model.own.first.weights])[:, of]
    h = np.maximum(x @ weight + f64(model.own.first.bias)[of], 0)
    for layer in model.own.rest.layers:
        h = np.maximum(h @ f64(layer.weight)[head] + f64(layer.bias)[head, 0], 0)
    return h


def mixed(transfer, before, own):
    """z_t of one impression from z_{t-1} and q_t."""
    vectors = [np.maximum(linear(transfer.handed, before), 0), own]
    raw = [linear(transfer.query, u) @ linear(transfer.key, u) / np.sqrt(HIDDEN[-1]) for u in vectors]
    weights = np.exp(raw) / np.exp(raw).sum()
    return sum(w * linear(transfer.value, u) for w, u in zip(weights, vectors, strict=True))


def reference(model, x):
    rows = []
    for row in x:
        z = [own_vector(model, row, 0)]
        for t, transfer in enumerate(model.transfers):
            z.append(mixed(transfer, z[-1], own_vector(model, row, t + 1)))
        rows.append(np.stack(z))
    return np.stack(rows, 1)


@pytest.mark.parametrize("heads", [HEADS, HEADS[:2], HEADS[:1]])
def test_equals_the_papers_equations(heads):
    model = trunk(heads)
    x = example()
    np.testing.assert_allclose(f64(model(parts_of(x))), reference(model, x), atol=1e-12)


def test_the_weights_of_what_is_handed_over_and_of_the_own_vector_sum_to_one():
    model = trunk()
    own_HBX = model.own(parts_of(example()))
    vectors, weights = model.transfers[0].weights(own_HBX[0], own_HBX[1])
    torch.testing.assert_close(weights.sum(0), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(vectors[1], own_HBX[1])
    assert weights.min() > 0 and weights.std(1).min() > 1e-3


def test_a_step_learns_from_those_before_it_and_never_from_those_after():
    model = trunk()
    own = model.own(parts_of(example())).detach()
    for head in range(len(HEADS)):
        read = own.clone().requires_grad_()
        model.own.forward = lambda _inputs, read=read: read
        model(parts_of(example()))[head].sum().backward()
        reached = (read.grad.abs().sum((1, 2)) > 1e-6).tolist()
        assert reached == [other <= head for other in range(len(HEADS))]


def test_a_user_part_of_one_row_equals_the_same_row_repeated():
    parts = [torch.randn(rows, width, dtype=torch.float64) for rows, width in ((1, 5), (8, 3))]
    assert_one_row_equals_repeated(trunk(), TrunkInput(parts))


def test_gradients_are_those_of_finite_differences():
    model = trunk()
    x = example()
    assert_gradients(model, lambda: weighted(model(parts_of(x))))
