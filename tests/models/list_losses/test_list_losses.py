"""Tests every list loss against float64 numpy: its equation, its gradient, and its properties on lists."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from models.layers.probability import both, of_logit
from models.list_losses import LIST_LOSSES, ListLoss
from models.list_losses.base import Lists
from models.list_losses.pairwise import pairs_of

NAMES = [options.model_fields["type"].annotation.__args__[0] for options in LIST_LOSSES]
# Three lists of four, two and one impressions; one has no positive, one only positives.
GROUP = np.array([7, 7, 7, 7, 3, 3, 9, 5, 5, 5, 1, 1])
LABEL = np.array([1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1])


def named(name):
    return TypeAdapter(ListLoss).validate_python({"type": name})


def weighted_mean(of_list, label, group):
    """The mean over the lists, weighted by their impressions; those with only one label count as 0."""
    total = 0.0
    for name in np.unique(group):
        y = label[group == name]
        if 0 < y.sum() < len(y):
            total += len(y) * of_list(group == name)
    return total / len(label)


def softmax_loss(s, label, group, density):
    """-1 / |P| sum_{i in P} log(exp(s_i) / sum_j exp(s_j))."""

    def of_list(inside):
        shares = np.exp(s[inside]) / np.exp(s[inside]).sum()
        return -np.log(shares[label[inside] > 0]).mean()

    return weighted_mean(of_list, label, group)


def pairwise_loss(s, label, group, density):
    """1 / (|P| |N|) sum_{i in P, j in N} log(1 + exp(s_j - s_i))."""

    def of_list(inside):
        positive = s[inside & (label > 0)]
        negative = s[inside & (label == 0)]
        return np.log1p(np.exp(negative[None, :] - positive[:, None])).mean()

    return weighted_mean(of_list, label, group)


def jrc_loss(s, label, group, density):
    """mean of -log(exp(f(x)[y]) / sum_{x' in z} exp(f(x')[y])), f the two logits with f[1] - f[0] = s."""
    zero = density - np.log1p(np.exp(s))  # so that log(exp f[0] + exp f[1]) is the density
    f = np.stack([zero, zero + s], axis=1)
    losses = []
    for i in range(len(s)):
        inside = group == group[i]
        y = int(label[i])
        losses.append(-f[i, y] + np.log(np.exp(f[inside, y]).sum()))
    return np.mean(losses)


REFERENCES = {"softmax": softmax_loss, "pairwise": pairwise_loss, "jrc": jrc_loss}


def measured(name, s, label, group, density):
    p = of_logit(torch.as_tensor(s))
    lists = Lists.of(torch.as_tensor(group))
    return named(name).loss(p, torch.as_tensor(label, dtype=p.yes.dtype), lists, torch.as_tensor(density))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_papers_equation(name, seed):
    rng = np.random.default_rng(seed)
    n = 40
    group = rng.integers(0, 9, n) * 10**12
    label = rng.integers(0, 2, n)
    s, density = rng.normal(size=(2, n)) * 2
    expected = REFERENCES[name](s, label, group, density)
    assert float(measured(name, s, label, group, density)) == pytest.approx(expected, rel=1e-10)
    single = measured(name, s.astype(np.float32), label, group, density.astype(np.float32))
    assert float(single) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    rng = np.random.default_rng(0)
    s = torch.tensor(rng.normal(size=len(GROUP)), requires_grad=True)
    density = torch.tensor(rng.normal(size=len(GROUP)), requires_grad=True)
    label = torch.tensor(LABEL, dtype=torch.float64)
    lists = Lists.of(torch.tensor(GROUP))
    assert torch.autograd.gradcheck(lambda x, z: named(name).loss(of_logit(x), label, lists, z), (s, density))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_an_impression_of_weight_w_is_w_impressions_of_its_list(name, seed):
    rng = np.random.default_rng(seed)
    n = 40
    group = rng.integers(0, 9, n)
    label = rng.integers(0, 2, n)
    s, density = rng.normal(size=(2, n)) * 2
    weight = rng.integers(0, 4, n)
    lists = Lists.of(torch.as_tensor(group), torch.as_tensor(weight, dtype=torch.float64))
    p = of_logit(torch.as_tensor(s))
    loss = named(name).loss(p, torch.as_tensor(label, dtype=torch.float64), lists, torch.as_tensor(density))
    copies = (np.repeat(values, weight) for values in (s, label, group, density))
    assert float(loss) / weight.mean() == pytest.approx(REFERENCES[name](*copies), rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_weights_down_to_0_leave_gradients_those_of_finite_differences(name):
    rng = np.random.default_rng(4)
    s = torch.tensor(rng.normal(size=len(GROUP)), requires_grad=True)
    density = torch.tensor(rng.normal(size=len(GROUP)), requires_grad=True)
    label = torch.tensor(LABEL, dtype=torch.float64)
    # The list 5 has no weight at all; of the list 3, the only positive has none.
    weight = np.where((GROUP == 5) | ((GROUP == 3) & (LABEL > 0)), 0.0, rng.gamma(0.3, size=len(GROUP)))
    lists = Lists.of(torch.tensor(GROUP), torch.tensor(weight))
    assert torch.autograd.gradcheck(lambda x, z: named(name).loss(of_logit(x), label, lists, z), (s, density))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_impressions_and_the_names_of_lists_change_nothing(name):
    rng = np.random.default_rng(1)
    s, density = rng.normal(size=(2, len(GROUP)))
    order = rng.permutation(len(GROUP))
    loss = measured(name, s, LABEL, GROUP, density)
    assert float(measured(name, s[order], LABEL[order], -GROUP[order], density[order])) == pytest.approx(float(loss))


@pytest.mark.parametrize("name", ["softmax", "pairwise"])
def test_what_moves_a_whole_list_alike_changes_nothing(name):
    rng = np.random.default_rng(2)
    s = rng.normal(size=len(GROUP))
    density = np.zeros(len(GROUP))
    moved = s + 3.0 * GROUP
    loss = measured(name, s, LABEL, GROUP, density)
    assert float(measured(name, moved, LABEL, GROUP, density)) == pytest.approx(float(loss))


@pytest.mark.parametrize("name", NAMES)
def test_a_better_order_has_a_smaller_loss(name):
    density = np.zeros(len(GROUP))
    right = measured(name, 2.0 * LABEL - 1.0, LABEL, GROUP, density)
    wrong = measured(name, 1.0 - 2.0 * LABEL, LABEL, GROUP, density)
    assert right < measured(name, 0.0 * LABEL, LABEL, GROUP, density) < wrong


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_give_finite_losses_and_gradients(name, size):
    s = torch.tensor(size * (2.0 * LABEL - 1.0), dtype=torch.float32, requires_grad=True)
    label = torch.tensor(LABEL, dtype=torch.float32)
    loss = named(name).loss(of_logit(s), label, Lists.of(torch.tensor(GROUP)), torch.zeros(len(GROUP)))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_lists_without_an_order_have_no_gradient(name, n):
    s = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    label = torch.ones(n, dtype=torch.float64)
    loss = named(name).loss(of_logit(s), label, Lists.of(torch.arange(n)), torch.zeros(n, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (s.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_product_of_probabilities_is_a_score_like_any_other(name):
    rng = np.random.default_rng(3)
    a, b, density = (torch.tensor(v) for v in rng.normal(size=(3, len(GROUP))))
    product = 1 / (1 + np.exp(-a.numpy())) / (1 + np.exp(-b.numpy()))
    odds = np.log(product / (1 - product))
    p = both(of_logit(a), of_logit(b))
    loss = named(name).loss(p, torch.tensor(LABEL, dtype=torch.float64), Lists.of(torch.tensor(GROUP)), density)
    assert float(loss) == pytest.approx(REFERENCES[name](odds, LABEL, GROUP, density.numpy()), rel=1e-9)


def test_pairs_are_those_of_a_positive_and_a_negative_of_one_list():
    pairs = pairs_of(torch.tensor(LABEL), Lists.of(torch.tensor(GROUP)))
    n = len(GROUP)
    expected = {(i, j) for i in range(n) for j in range(n) if GROUP[i] == GROUP[j] and LABEL[i] > LABEL[j]}
    got = list(zip(pairs.positive.tolist(), pairs.negative.tolist(), strict=True))
    assert len(got) == len(expected) and set(got) == expected
