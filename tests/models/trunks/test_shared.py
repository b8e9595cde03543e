"""Tests the trunks in which all heads read one vector, and expert dropout."""

import torch

from models.layers.gates import drop_experts
from models.trunks.base import TrunkInput
from models.trunks.mmoe import Mmoe
from models.trunks.omoe import Omoe
from models.trunks.shared_bottom import SharedBottom


def test_omoe_is_mmoe_with_every_gate_the_same():
    torch.manual_seed(0)
    one = Omoe((5, 3), ("a", "b"), 4, (6, 7), 0.0).eval()
    parts = [torch.randn(9, 5), torch.randn(9, 3)]
    many = Mmoe((5, 3), ("a", "b"), 4, (6, 7), 0.0).eval()
    with torch.no_grad():
        for to, of in zip(many.first.weights, one.mixture.first.weights, strict=True):
            to.copy_(torch.cat([of, of[:, 24:]], 1))
        many.first.bias.copy_(torch.cat([one.mixture.first.bias, one.mixture.first.bias[24:]]))
    many.rest.load_state_dict(one.mixture.rest.state_dict())
    torch.testing.assert_close(one(TrunkInput(parts)).expand(2, 9, 7), many(TrunkInput(parts)))


def test_a_shared_bottom_gives_every_head_the_same_vector():
    torch.manual_seed(0)
    model = SharedBottom((5, 3), (6, 4), 0.0).eval()
    parts = [torch.randn(9, 5), torch.randn(9, 3)]
    first = torch.relu(torch.cat(parts, 1) @ torch.cat(list(model.first.weights)) + model.first.bias)
    layer = model.rest.layers[0]
    torch.testing.assert_close(model(TrunkInput(parts))[0], torch.relu(first @ layer.weight[0] + layer.bias[0]))


def test_dropped_experts_get_nothing_and_the_rest_sums_to_one():
    torch.manual_seed(0)
    gates = torch.softmax(torch.randn(5000, 3, 4), -1)
    dropped = drop_experts(gates, 0.1)
    torch.testing.assert_close(dropped.sum(-1), torch.ones(5000, 3))
    assert 0.09 < (dropped == 0).float().mean() < 0.11
    survivors = dropped > 0
    torch.testing.assert_close(torch.where(survivors, dropped / gates, 0.0).amax(-1), 1 / (gates * survivors).sum(-1))


def test_when_all_experts_would_be_dropped_the_largest_stays():
    gates = torch.tensor([[0.2, 0.5, 0.3]]).expand(1000, 3)
    dropped = drop_experts(gates, 0.999)
    assert torch.isfinite(dropped).all()
    assert (dropped[:, 1] == 1).float().mean() > 0.9


def test_expert_dropout_is_of_training_only():
    model = Mmoe((5,), ("a",), 4, (6,), 0.0, expert_dropout=0.5)
    x = TrunkInput([torch.randn(64, 5)])
    torch.testing.assert_close(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))
