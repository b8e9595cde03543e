"""Tests the lookup by a perfect hash: it finds what a dictionary finds, for any distribution of keys."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.external.lookup import KeySlots, key_slots, put_slots
from export.external.perfect_hash import perfect_hash
from features import MISSING_KEY, key_of

FIRST = np.iinfo(np.int64).min
LAST = np.iinfo(np.int64).max
KEYS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "uniform": lambda rng: rng.integers(FIRST, LAST, 5000),
    "one": lambda _rng: np.array([MISSING_KEY]),
    "the ends": lambda _rng: np.array([LAST, FIRST, 0, -1, 1]),
    "all in one bucket": lambda rng: rng.integers(0, 1 << 20, 1000),
    "negative alone": lambda rng: rng.integers(FIRST, 0, 300),
    "dense around zero": lambda _rng: np.arange(-50, 50),
    "the same lowest bits": lambda rng: rng.integers(0, 1 << 40, 500) << 23,
    "the highest bits alone": lambda _rng: np.arange(10_000) << 48,
    "pairs of equal highest and lowest bits": lambda rng: (
        np.arange(2) * (1 << 30) + rng.integers(FIRST, 0, 100)[:, None]
    ),
    "hashes of texts, the empty one among them": lambda _rng: np.array(
        [key_of("word", text) for text in ("", " ", "\0", "é", "e\u0301", "猫", "🐈", "x" * 512, *map(str, range(300)))]
    ),
}


def lookup_graph() -> onnx.GraphProto:
    """A graph of one LabelEncoder, as the exporter writes it."""
    lookup = helper.make_node("LabelEncoder", ["keys"], ["rows"], domain="ai.onnx.ml")
    inputs = [helper.make_tensor_value_info("keys", TensorProto.INT64, ["N"])]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.INT64, ["N"])]
    return helper.make_graph([lookup], "lookup", inputs, outputs)


def graph_of(slots: KeySlots) -> ort.InferenceSession:
    """A graph that looks keys `[n]` up, as `to_onnx` writes it."""
    model = helper.make_model(lookup_graph(), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    put_slots(model, slots)
    for name, values in slots.tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", KEYS)
def test_every_key_has_its_row_and_no_other_key_has_one(kind: str) -> None:
    rng = np.random.default_rng(1)
    keys = np.unique(KEYS[kind](rng))
    rng.shuffle(keys)
    rows = rng.permutation(len(keys))
    expected = dict(zip(keys.tolist(), rows.tolist(), strict=True))
    near = np.concatenate([keys[:500] + 1, keys[:500] - 1])  # they wrap around at the ends
    asked = np.concatenate([keys, near, rng.integers(FIRST, LAST, 1000), [FIRST, LAST, 0]])
    (got,) = graph_of(key_slots(keys, rows)).run(None, {"keys": asked})
    assert got.tolist() == [expected.get(key, -1) for key in asked.tolist()]


def test_no_key_is_a_result_without_rows() -> None:
    (got,) = graph_of(key_slots(np.array([0, 5]), np.array([0, 1]))).run(None, {"keys": np.zeros(0, np.int64)})
    assert got.shape == (0,)


def test_the_steps_of_a_lookup_and_the_memory_per_key_do_not_grow_with_the_number_of_keys() -> None:
    rng = np.random.default_rng(2)
    nodes = []
    for count in (1 << 12, 1 << 18):
        keys = np.unique(rng.integers(FIRST, LAST, count))
        slots = key_slots(keys, np.arange(len(keys)))
        nodes.append(len(nodes_of(slots)))
        assert sum(tensor.nbytes for tensor in slots.tensors.values()) <= 42 * len(keys)
    assert max(nodes) <= 12


def nodes_of(slots: KeySlots) -> list[onnx.NodeProto]:
    model = onnx.helper.make_model(lookup_graph(), ir_version=10)
    put_slots(model, slots)
    return list(model.graph.node)


def test_more_keys_than_there_are_positions_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.external.perfect_hash._MOST_SLOT_BITS", 9)
    with pytest.raises(ValueError, match="500 keys are more than the lookup has positions for"):
        perfect_hash(np.arange(500))
