"""Tests the parity check: differences are relative for scores beyond 1, absolute below, and scores must be finite."""

import numpy as np
import pytest
import torch
from small_rankers import FEATURES, raw_inputs, small

from export.graph import to_onnx
from export.parity import BEHAVIOURS, ParityError, _difference, check_parity, lengths_of


@pytest.mark.parametrize("unit", [1.0, 50.0, 50_000.0])
def test_a_value_in_seconds_or_milliseconds_passes_as_one_near_1_does(unit: float) -> None:
    model = small("youtube2019")
    head = model.ranker.heads.index("rating")
    with torch.no_grad():
        for name, parameter in model.ranker.towers.named_parameters():
            if name.startswith("layers.1"):
                parameter[head] *= unit
    pool = [raw_inputs(model, 1, 4, seed=i) for i in range(20)]
    rows = {name: np.concatenate([one[name] for one in pool]) for name in pool[0]}
    graph = to_onnx(model.graph, model.encoding).SerializeToString()
    parity = check_parity(model.graph, graph, model.encoding.schema, rows, 1)
    assert parity.max_abs_difference <= parity.tolerance


def test_a_real_difference_of_a_large_value_is_refused() -> None:
    expected = np.array([60_000.0, 3.0], np.float32)
    assert _difference("watch", np.nextafter(expected, np.float32(np.inf)), expected, 2, 0) < 1e-6
    with pytest.raises(ParityError, match=r"watch with 2 candidates .* differ by 3\.33e-05"):
        _difference("watch", expected + np.array([2, 0], np.float32), expected, 2, 0)
    with pytest.raises(ParityError, match="differ by"):
        _difference("pctr", np.array([0.50002], np.float32), np.array([0.5], np.float32), 1, 0)


def test_a_schema_with_longer_sequences_is_compared_at_their_length_too() -> None:
    behaviour = FEATURES["behaviour"]
    for longest, lengths in ((5, BEHAVIOURS), (50, BEHAVIOURS), (300, (*BEHAVIOURS, 300))):
        model = small("sim", features={"behaviour": behaviour | {"max_length": longest}})
        assert lengths_of(model.encoding.schema) == lengths
    assert lengths_of(model.encoding.schema.model_copy(update={"behaviour": None})) == (0,)
