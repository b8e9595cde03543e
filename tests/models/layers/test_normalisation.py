"""Tests linear layers with batch normalisation against torch's, and what their running statistics become."""

import torch
from paper_checks import assert_gradients, weighted

from models.layers.normalisation import NormalisedLinear


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
