"""Tests STAR against a float64 reference: forward, gradients by finite differences, statistics, the graph."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_graph_equals_torch, assert_one_row_equals_repeated, weighted
from small_rankers import raw_inputs, score, small, training_batch

from models.layers.input_part import InputPart
from models.recipe import RecipeError
from models.trunks.base import TrunkInput, TrunkSpec
from models.trunks.star import EPS, Star

WIDTHS = (5, 3)
HEADS = ("a", "b")
HIDDEN = (6, 4)
DOMAINS = 3


def f64(t):
    return t.detach().double().numpy()


def star():
    """A network whose weights all differ from their initial values."""
    torch.manual_seed(0)
    parts = tuple(InputPart(width, i == 1, 4) for i, width in enumerate(WIDTHS))
    model = Star(
        TrunkSpec(parts, HEADS, dropout=0.0, domains=DOMAINS), HIDDEN, auxiliary_hidden=7, domain_dim=2
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for norm in model.norms:
            norm.mean.normal_()
            norm.variance.uniform_(0.5, 2)
    return model.eval()


def inputs_of(x, domain):
    parts = [torch.from_numpy(x[:, :5]), torch.from_numpy(x[:, 5:])]
    return TrunkInput(parts, domain=torch.from_numpy(domain))


def example(n=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, sum(WIDTHS))), rng.integers(0, DOMAINS + 1, n)


def of_domain(table, domain, shared):
    """The weight of a domain; for domain 0, which is the shared network, the neutral value."""
    return np.full(table.shape[1:], shared) if domain == 0 else f64(table)[domain - 1]


def normalised(model, x, domain, statistics):
    """gamma gamma_p (x - E_p) / sqrt(Var_p + eps) + beta + beta_p of one impression, part by part."""
    parts = []
    for norm, part, (mean, variance) in zip(model.norms, (x[:5], x[5:]), statistics, strict=True):
        gamma = f64(norm.gamma) * of_domain(norm.domain_gamma, domain, 1.0)
        beta = f64(norm.beta) + of_domain(norm.domain_beta, domain, 0.0)
        parts.append(gamma * (part - mean[domain]) / np.sqrt(variance[domain] + EPS) + beta)
    return parts


def reference(model, x, domain, statistics=None):
    """The inputs of the towers `[H, n, X]`, and the addends to their logits `[H, n]`."""
    statistics = statistics or [(f64(norm.mean), f64(norm.variance)) for norm in model.norms]
    outs, shifts = [], []
    for row, p in zip(x, domain, strict=True):
        h = np.concatenate(normalised(model, row, p, statistics))
        for layer in model.layers:
            shared = np.concatenate([f64(w) for w in layer.shared.weights])
            own = np.concatenate([of_domain(w, p, 1.0) for w in layer.weights])
            h = np.maximum(h @ (shared * own) + f64(layer.shared.bias) + of_domain(layer.bias, p, 0.0), 0)
        outs.append(h * of_domain(model.head_weights, p, 1.0))
        first = np.concatenate([f64(model.domain_embedding.weight)[p], row])
        weights = np.concatenate([f64(w) for w in model.auxiliary_first.weights])
        first = np.maximum(first @ weights + f64(model.auxiliary_first.bias), 0)
        of_auxiliary = first @ f64(model.auxiliary_last.weight).T + f64(model.auxiliary_last.bias)
        shifts.append(of_auxiliary + of_domain(model.head_bias, p, 0.0))
    return np.stack(outs, 1), np.stack(shifts, 1)


def test_equals_the_papers_equations_for_impressions_of_many_domains():
    model = star()
    x, domain = example()
    out, shift = reference(model, x, domain)
    np.testing.assert_allclose(f64(model(inputs_of(x, domain))), out, atol=1e-12)
    np.testing.assert_allclose(f64(model.logit_shift(inputs_of(x, domain))), shift, atol=1e-12)


@pytest.mark.parametrize("domain", range(DOMAINS + 1))
def test_one_domain_for_all_candidates_equals_each_alone(domain):
    model = star()
    x, _ = example()
    out, shift = reference(model, x, np.full(12, domain))
    one = inputs_of(x, np.array([domain]))
    np.testing.assert_allclose(f64(model(one)), out, atol=1e-12)
    np.testing.assert_allclose(f64(model.logit_shift(one)), shift, atol=1e-12)


def test_a_user_part_of_one_row_equals_the_same_row_repeated():
    model = star()
    parts = [torch.randn(rows, width, dtype=torch.float64) for rows, width in ((1, 5), (8, 3))]
    once = TrunkInput(parts, domain=torch.tensor([2]))
    assert_one_row_equals_repeated(model, once)
    assert_one_row_equals_repeated(model.logit_shift, once)


def batch_statistics(x, domain):
    """Mean and variance of each domain's rows, and of all rows for domain 0, part by part."""
    statistics = []
    for part in (x[:, :5], x[:, 5:]):
        rows = [part] + [part[domain == d] for d in range(1, DOMAINS + 1)]
        statistics.append((np.stack([r.mean(0) for r in rows]), np.stack([r.var(0) for r in rows])))
    return statistics


def test_training_normalises_by_the_domains_impressions_in_the_batch():
    model = star().train()
    x, domain = example(40)
    out, _ = reference(model, x, domain, batch_statistics(x, domain))
    np.testing.assert_allclose(f64(model(inputs_of(x, domain))), out, atol=1e-12)


def test_the_first_batch_sets_the_moving_statistics_and_the_next_ones_move_them():
    model = star().train()
    x, domain = example(40)
    other, _ = example(40, seed=1)
    model(inputs_of(x, domain))
    first = batch_statistics(x, domain)
    np.testing.assert_allclose(f64(model.norms[0].mean), first[0][0], atol=1e-12)
    np.testing.assert_allclose(f64(model.norms[1].variance), first[1][1], atol=1e-12)
    model(inputs_of(other, domain))
    second = batch_statistics(other, domain)
    np.testing.assert_allclose(f64(model.norms[0].mean), (first[0][0] + second[0][0]) / 2, atol=1e-12)


def test_a_domain_with_one_impression_in_a_batch_keeps_its_statistics():
    model = star().train()
    x, _ = example(9)
    domain = np.array([1] * 8 + [2])
    before = f64(model.norms[0].mean)[2].copy()
    out = model(inputs_of(x, domain))
    assert torch.isfinite(out).all()
    np.testing.assert_array_equal(f64(model.norms[0].mean)[2], before)
    assert (f64(model.norms[0].mean)[1] != before).any()


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(training):
    model = star().train(training)
    x, domain = example(20)
    inputs = inputs_of(x, domain)
    assert_gradients(model, lambda: weighted(model(inputs)) + weighted(model.logit_shift(inputs), seed=6))


def test_at_the_start_every_domain_is_the_shared_network():
    parts = tuple(InputPart(width, i == 1, 4) for i, width in enumerate(WIDTHS))
    model = Star(TrunkSpec(parts, HEADS, dropout=0.0, domains=DOMAINS), HIDDEN, 7, 2).double().eval()
    x, _ = example()
    outs = [model(inputs_of(x, np.full(12, d))) for d in range(DOMAINS + 1)]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0])


def test_the_domain_is_the_context_features_value_and_any_other_value_has_none():
    model = small("star")
    domains = model.ranker.domains
    known = domains.rows.tolist()
    unknown = model.encoding.vocabulary.unknown_rows["page"]
    rows = torch.tensor([[row] for row in [*known, unknown, 0]])
    assert domains(rows).tolist() == [1, 2, 3, 0, 0]


def test_an_unseen_domain_is_scored_by_the_shared_weights_alone():
    model = small("star")
    inputs = raw_inputs(model, 5, 3)
    inputs["context_keys"][:, 0] = 12345  # a value that the recipe does not list
    before = score(model, inputs)
    with torch.no_grad():
        for layer in model.ranker.trunk.layers:
            for weight in layer.weights:
                weight.normal_()
        model.ranker.trunk.head_bias.normal_()
    for name, values in score(model, inputs).items():
        np.testing.assert_array_equal(values, before[name])


def test_the_domain_moves_the_scores_and_the_graph_follows():
    model = small("star")
    requests = []
    for key in [*keys_of_domains(model), 12345]:
        inputs = raw_inputs(model, 7, 4)
        inputs["context_keys"][:, 0] = key
        requests.append(inputs)
    assert_graph_equals_torch(model, requests, atol=1e-6)
    by_domain = [score(model, inputs)["pctr"] for inputs in requests]
    for i in range(len(by_domain)):
        for j in range(i):
            assert np.abs(by_domain[i] - by_domain[j]).max() > 1e-3


def keys_of_domains(model):
    voc = model.encoding.vocabulary
    key_of_row = dict(zip(voc.rows.tolist(), voc.keys.tolist(), strict=True))
    return [key_of_row[row] for row in model.ranker.domains.rows.tolist()]


def test_training_batches_hold_every_domain():
    model = small("star")
    domains = model.ranker.domains(training_batch(model, 64, 3)["context_rows"])
    assert set(domains.tolist()) == {0, 1, 2, 3}


def test_a_recipe_without_domains_is_refused():
    with pytest.raises(RecipeError, match=r"model\.domain: the trunk 'star' needs the domains of the data"):
        small("star", domain=None)


def test_a_domain_that_is_no_context_feature_is_refused_with_the_nearest_name():
    with pytest.raises(RecipeError, match=r"model\.domain\.feature: 'pages' is no categorical context.*'page'\?"):
        small("star", domain={"feature": "pages", "values": ["a"]})
