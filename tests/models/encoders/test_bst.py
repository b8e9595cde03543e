"""Tests BST against a float64 reference of the paper's equations: forward, gradients, masks, one user, the graph."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_graph_equals_torch, weighted
from pydantic import ValidationError
from small_rankers import small

from models.encoders.base import EncoderSpec, View
from models.encoders.bst import Bst, BstOptions

ITEM = 3
PROPERTY = 2
WIDTH = 6
BLOCKS = pytest.mark.parametrize("blocks", [1, 2])


def f64(t):
    return t.detach().double().numpy()


def encoder(blocks=1, heads=2) -> Bst:
    """An encoder whose weights all differ from their initial values."""
    torch.manual_seed(0)
    options = BstOptions(type="bst", width=WIDTH, attention_heads=heads, feed_forward=5, blocks=blocks)
    model = options.build(EncoderSpec(ITEM, PROPERTY)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def example(n=4, behaviours=5, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(behaviours) < rng.integers(0, behaviours + 1, n)[:, None]
    return rng.normal(size=(n, behaviours, ITEM + PROPERTY)), mask, rng.normal(size=(n, ITEM))


def view(behaviours, mask, target):
    return View(torch.from_numpy(behaviours), torch.from_numpy(mask), torch.from_numpy(target))


def normalised(x, norm):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * f64(norm.weight) + f64(norm.bias)


def block_of(block, places):
    """One block over the real places `[N, D]` of one impression, head by head."""
    size = WIDTH // block.heads
    joined = []
    for head in range(block.heads):
        of = slice(head * size, (head + 1) * size)
        q, k, v = (places @ f64(layer.weight)[of].T for layer in (block.query, block.key, block.value))
        raw = np.exp(q @ k.T / np.sqrt(size))
        joined.append(raw / raw.sum(1, keepdims=True) @ v)
    first = normalised(places + np.concatenate(joined, 1) @ f64(block.joined.weight).T, block.first_norm)
    up = first @ f64(block.up.weight).T + f64(block.up.bias)
    down = np.where(up > 0, up, 0.01 * up) @ f64(block.down.weight).T + f64(block.down.bias)
    return normalised(first + down, block.second_norm)


def reference(model, behaviours, mask, target):
    """`[B, 2 D]`: padding is cut off, so that nothing has to be masked."""
    w, b = f64(model.of_item.weight), f64(model.of_item.bias)
    rows = []
    for padded, real, item in zip(behaviours, mask, target, strict=True):
        sequence = padded[real]
        of_behaviours = sequence[:, :ITEM] @ w.T + b + sequence[:, ITEM:] @ f64(model.of_property.weight).T
        places = np.concatenate([[item @ w.T + b + f64(model.candidate)], of_behaviours])
        for block in model.blocks:
            places = block_of(block, places)
        rows.append(np.concatenate([places[0], places.max(0)]))
    return np.stack(rows)


@BLOCKS
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_equals_the_papers_equations(blocks, heads):
    model = encoder(blocks, heads)
    inputs = example(8)
    np.testing.assert_allclose(f64(model(view(*inputs))), reference(model, *inputs), atol=1e-12)


def test_padding_changes_nothing_whatever_it_holds():
    model = encoder(2)
    behaviours, mask, target = example()
    other = np.where(mask[..., None], behaviours, 1e3)
    torch.testing.assert_close(model(view(other, mask, target)), model(view(behaviours, mask, target)))


def test_the_order_of_the_behaviours_is_in_their_properties_alone():
    model = encoder(2)
    behaviours, mask, target = example()
    order = np.random.default_rng(3).permutation(behaviours.shape[1])
    shuffled = view(behaviours[:, order], mask[:, order], target)
    torch.testing.assert_close(model(shuffled), model(view(behaviours, mask, target)))


@BLOCKS
@pytest.mark.parametrize("behaviours", [0, 1, 5])
def test_one_user_for_all_candidates_equals_the_behaviours_repeated(blocks, behaviours):
    model = encoder(blocks)
    sequence, _, _ = example(1, behaviours)
    mask = np.ones((1, behaviours), bool)
    targets = np.random.default_rng(1).normal(size=(7, ITEM))
    expected = reference(model, sequence.repeat(7, 0), mask.repeat(7, 0), targets)
    np.testing.assert_allclose(f64(model(view(sequence, mask, targets))), expected, atol=1e-12)


def test_the_behaviours_read_each_other_and_the_candidate():
    """Neither the candidate alone nor one behaviour alone decides what another place gives."""
    model = encoder()
    behaviours, _, target = example(1)
    places = model.places(torch.from_numpy(behaviours), torch.from_numpy(target)).detach().requires_grad_()
    model.blocks[0](places, torch.ones(1, 6, dtype=torch.bool))[0, 2].sum().backward()
    assert (places.grad[0].abs().sum(-1) > 1e-6).all()


def test_gradients_are_those_of_finite_differences():
    model = encoder()
    inputs = example(6)
    assert_gradients(model, lambda: weighted(model(view(*inputs))), atol=5e-6)


@pytest.mark.slow
def test_the_graph_of_two_blocks_equals_torch_at_any_length():
    options = {"type": "bst", "width": 6, "attention_heads": 3, "feed_forward": 5, "blocks": 2}
    assert_graph_equals_torch(small("bst", encoders=[options]))


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValidationError, match="width 10 is no multiple of attention_heads 4"):
        BstOptions(type="bst", width=10)
