"""Tests the shared layers: numerics, Dice, PReLU, pooling of lists, linear layers over parts, log probabilities."""

import numpy as np
import torch

from features import Categorical, MultiCategorical
from models.data.encoding.encoding import NumericStats, no_edges, quantile_edges
from models.layers.activation import Dice, PRelu
from models.layers.linear import PartLinear
from models.layers.position_bias import PositionSection, PositionTower
from models.layers.probability import both, mixture, of_logit
from models.network.embedding.groups import KeyColumns, NumericBins, Numerics


def test_numerics_are_standardised_then_squashed_and_a_missing_one_is_learned():
    stats = NumericStats(np.array([1.0, 2.0], np.float32), np.array([2.0, 0.5], np.float32), no_edges(2))
    layer = Numerics(stats, np.array([False, True])).eval()
    with torch.no_grad():
        layer.missing.copy_(torch.tensor([0.3, -0.7]))
    raw = np.array([[3.0, -5.0], [np.nan, 10.0], [0.5, np.nan]])
    expected = np.tanh(np.stack([(raw[:, 0] - 1) / 2, (np.sign(raw[:, 1]) * np.log1p(np.abs(raw[:, 1])) - 2) / 0.5], 1))
    expected = np.where(np.isnan(raw), np.array([[0.3, -0.7]]), expected)
    np.testing.assert_allclose(layer(torch.from_numpy(raw).float()).detach(), expected, atol=1e-6)


def test_missing_numerics_give_finite_gradients():
    layer = Numerics(
        NumericStats(np.zeros(2, np.float32), np.ones(2, np.float32), no_edges(2)), np.array([True, False])
    )
    layer(torch.tensor([[torch.nan, 1.0], [2.0, torch.nan]])).sum().backward()
    np.testing.assert_allclose(layer.missing.grad, [1.0, 1.0])


def test_bins_are_quantiles_of_what_is_not_the_common_value():
    values = np.array([[0.0, 1.0]] * 60 + [[float(i), float("nan")] for i in range(1, 41)], np.float32)
    edges = quantile_edges(values, np.ones(100), [4, 4])
    np.testing.assert_array_equal(
        edges[0], np.array([0.0, np.nextafter(np.float32(0), np.float32(1)), 11.0, 21.0, 31.0], np.float32)
    )
    np.testing.assert_array_equal(edges[1], np.array([1.0, np.inf, np.inf, np.inf, np.inf], np.float32))
    weighted = quantile_edges(np.array([[1.0], [2.0], [3.0]], np.float32), np.array([2, 1, 1]), [2])
    np.testing.assert_array_equal(weighted, [[2.0]])


def test_a_number_is_embedded_by_its_bin_and_a_missing_one_apart():
    layer = NumericBins(np.array([[0.0, 5.0], [np.inf, np.inf], [1.0, np.inf]], np.float32), 2)
    w = layer.table.weight
    got = layer(torch.tensor([[-1.0, 9.0, 1.0], [4.9, 9.0, 0.0], [5.0, 9.0, torch.nan], [torch.nan, 9.0, 1e30]]))
    rows = [[1, 4 + 2], [2, 4 + 1], [3, 4 + 0], [0, 4 + 2]]
    torch.testing.assert_close(got, torch.stack([torch.cat([w[a], w[b]]) for a, b in rows]))


def test_dice_uses_batch_statistics_of_real_rows_in_training_and_running_ones_after():
    layer = Dice(3, momentum=0.1)
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=(50, 4, 3))
    mask = rng.random((50, 4)) < 0.6
    got = layer.train()(torch.from_numpy(x).float(), torch.from_numpy(mask))
    mean = x[mask].mean(0)
    variance = x[mask].var(0)
    p = 1 / (1 + np.exp(-(x - mean) / np.sqrt(variance + 1e-8)))
    np.testing.assert_allclose(got.detach(), p * x, atol=1e-5)  # alpha starts at 0
    np.testing.assert_allclose(layer.mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.variance, 0.9 + 0.1 * variance, rtol=1e-5)
    p = 1 / (1 + np.exp(-(x - layer.mean.numpy()) / np.sqrt(layer.variance.numpy() + 1e-8)))
    np.testing.assert_allclose(layer.eval()(torch.from_numpy(x).float()).detach(), p * x, atol=1e-5)


def test_prelu_equals_torchs():
    layer = PRelu(4)
    theirs = torch.nn.PReLU(4)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.1, 0.2, -0.3, 1.5]))
        theirs.weight.copy_(layer.alpha)
    x = torch.randn(20, 4)
    torch.testing.assert_close(layer(x), theirs(x))


def test_a_list_is_pooled_over_its_values_alone():
    table = torch.nn.Embedding(10, 2, padding_idx=0)
    for pooling, divide in (("mean", 2), ("sum", 1)):
        features = (
            Categorical(name="a", type="categorical"),
            MultiCategorical(name="m", type="multi_categorical", max_values=4, pooling=pooling),
            Categorical(name="b", type="categorical"),
        )
        columns = KeyColumns(features, [1] * 6, [2] * 6).eval()
        got = columns(torch.tensor([[2, 5, 6, 0, 0, 3], [2, 0, 0, 0, 0, 3]]), table, 0.0)
        w = table.weight
        torch.testing.assert_close(got[0], torch.cat([w[2], w[3], (w[5] + w[6]) / divide]))
        torch.testing.assert_close(got[1], torch.cat([w[2], w[3], torch.zeros(2)]))


def test_unknown_rows_train_by_replacing_known_ids_and_never_padding():
    table = torch.nn.Embedding(4, 1, padding_idx=0)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[0.0], [100.0], [200.0], [1.0]]))
    columns = KeyColumns(
        (Categorical(name="a", type="categorical"), Categorical(name="b", type="categorical")), [1, 2], [1, 1]
    ).train()
    torch.manual_seed(0)
    got = columns(torch.tensor([[3, 3]] * 4000 + [[0, 0]] * 100), table, 0.25)
    shares = (got[:4000] >= 100).float().mean(0)
    assert ((shares > 0.22) & (shares < 0.28)).all()
    assert set(got[:4000, 0].tolist()) == {1.0, 100.0} and set(got[:4000, 1].tolist()) == {1.0, 200.0}
    assert (got[4000:] == 0).all()
    assert (columns.eval()(torch.tensor([[3, 3]] * 100), table, 0.25) == 1).all()


def test_part_linear_is_a_linear_layer_on_the_concatenation():
    layer = PartLinear((3, 2, 4), 5)
    parts = [torch.randn(1, 3), torch.randn(7, 2), torch.randn(1, 4)]
    whole = torch.cat([p.expand(7, -1) for p in parts], 1)
    torch.testing.assert_close(layer(parts), whole @ torch.cat(list(layer.weights)) + layer.bias)


def test_log_probabilities_match_float64():
    a, b, c = (torch.randn(100) * 5 for _ in range(3))
    pa, pb, pc = (1 / (1 + np.exp(-t.double().numpy())) for t in (a, b, c))
    for got, p in (
        (both(of_logit(a), of_logit(b)), pa * pb),
        (mixture(of_logit(a), of_logit(b), of_logit(c)), pa * pb + (1 - pa) * pc),
    ):
        np.testing.assert_allclose(got.yes, np.log(p), rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(got.no, np.log1p(-p), rtol=2e-5, atol=1e-6)


def position_tower():
    tower = PositionTower(
        PositionSection(column="position", cross="device", max_position=5, drop_rate=0.1, head="pctr"), 2
    )
    with torch.no_grad():
        tower.bias.weight.copy_(torch.arange(18.0).unsqueeze(1))
    return tower


def test_position_bias_has_a_value_per_position_and_cross_value():
    tower = position_tower().eval()
    got = tower(torch.tensor([0, 1, 5, 3]), torch.tensor([2, 0, 1, 2]))["pctr"]
    np.testing.assert_array_equal(got.detach(), [2, 3, 16, 11])


def test_a_tenth_of_positions_are_dropped_to_missing_in_training_only():
    tower = position_tower()
    positions = torch.full((20_000,), 4)
    cross = torch.ones(20_000, dtype=torch.int64)
    torch.manual_seed(0)
    dropped = (tower.train()(positions, cross)["pctr"] == 1).float().mean()
    assert 0.09 < dropped < 0.11
    assert (tower.eval()(positions, cross)["pctr"] == 13).all()


def test_what_stays_at_serving_is_the_missing_position_averaged_over_devices():
    tower = position_tower().train()
    tower(torch.ones(100, dtype=torch.int64), torch.tensor([1] * 75 + [2] * 25))
    np.testing.assert_allclose(tower.missing_constants()["pctr"].detach(), 0.75 * 1 + 0.25 * 2)
