"""Tests which parameters all heads share, and which layer is the last of them."""

import pytest
from small_rankers import small, training_batch

from models.training.weighting.shared import last_shared_layer, shared_masks

LAST = {
    "single_task": ["encoders.0.unit.out.weight"],
    "esmm": ["encoders.0.unit.out.weight"],
    "shared_bottom": ["trunk.rest.layers.0.weight"],
    "mmoe": ["trunk.rest.layers.0.weight"],
    "omoe": ["trunk.mixture.rest.layers.0.weight"],
    "ple": ["trunk.levels.0.experts.layers.0.weight"],
}


@pytest.mark.parametrize("architecture", LAST)
def test_the_last_shared_layer_is_the_one_before_the_heads_part(architecture):
    model = small(architecture)
    layer = last_shared_layer(shared_masks(model.ranker, training_batch(model, 64, 4)))
    assert list(layer) == LAST[architecture]


@pytest.mark.parametrize(
    ("encoder", "last"),
    [
        ("pooling", ["inputs.table.weight"]),
        ("dupn", ["encoders.0.attention.weight"]),
        ("din+pooling+dupn", ["encoders.0.unit.out.weight", "encoders.2.attention.weight"]),
    ],
)
def test_under_trunks_of_their_own_the_heads_share_the_encoders(encoder, last):
    model = small("single_task", encoder)
    assert list(last_shared_layer(shared_masks(model.ranker, training_batch(model, 64, 4)))) == last


def test_of_a_single_layer_of_experts_the_gates_are_not_shared():
    model = small("cgc")
    layer = last_shared_layer(shared_masks(model.ranker, training_batch(model, 256, 4)))
    assert layer and all(name.startswith("trunk.first.first.weights.") for name in layer)
    own = 2 * 2
    shared = 2
    width = 64
    for mask in layer.values():
        assert not mask[0, : own * width].any(), "a head's own experts"
        assert mask[0, own * width : (own + shared) * width].float().mean() > 0.9
        assert not mask[0, (own + shared) * width :].any(), "the gates"


def test_of_ples_experts_only_the_shared_ones_are_shared():
    model = small("ple")
    (mask,) = last_shared_layer(shared_masks(model.ranker, training_batch(model, 64, 4))).values()
    assert mask.flatten().tolist() == [False] * 4 + [True] * 2
