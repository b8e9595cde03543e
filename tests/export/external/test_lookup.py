"""Tests the lookup by bisection: it finds what a dictionary finds, for any distribution of keys."""

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.external.lookup import KeySearch, key_search, put_search
from features import MISSING_KEY

FIRST = np.iinfo(np.int64).min
LAST = np.iinfo(np.int64).max
KEYS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "uniform": lambda rng: rng.integers(FIRST, LAST, 5000),
    "one": lambda _rng: np.array([MISSING_KEY]),
    "the ends": lambda _rng: np.array([LAST, FIRST, 0, -1, 1]),
    "all in one bucket": lambda rng: rng.integers(0, 1 << 20, 1000),
    "negative alone": lambda rng: rng.integers(FIRST, 0, 300),
    "dense around zero": lambda _rng: np.arange(-50, 50),
}


def graph_of(search: KeySearch) -> ort.InferenceSession:
    """A graph that looks keys `[n]` up, as `to_onnx` writes it."""
    lookup = helper.make_node("LabelEncoder", ["keys"], ["rows"], domain="ai.onnx.ml")
    inputs = [helper.make_tensor_value_info("keys", TensorProto.INT64, ["N"])]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.INT64, ["N"])]
    graph = helper.make_graph([lookup], "lookup", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    put_search(model, search)
    for name, values in search.tensors.items():
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
    (got,) = graph_of(key_search(keys, rows)).run(None, {"keys": asked})
    assert got.tolist() == [expected.get(key, -1) for key in asked.tolist()]


def test_no_key_is_a_result_without_rows() -> None:
    (got,) = graph_of(key_search(np.array([0, 5]), np.array([0, 1]))).run(None, {"keys": np.zeros(0, np.int64)})
    assert got.shape == (0,)


def test_the_bisections_grow_with_the_largest_bucket_and_not_with_the_number_of_keys() -> None:
    rng = np.random.default_rng(2)
    bisections = []
    for count in (1 << 12, 1 << 18):
        keys = np.unique(rng.integers(FIRST, LAST, count))
        bisections.append(key_search(keys, np.arange(len(keys))).bisections)
    assert bisections[1] <= bisections[0] + 1 <= 5
