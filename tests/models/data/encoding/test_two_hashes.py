"""Tests vocabularies of two hashes: the sum of two rows per value, in float64, in training, in the graph."""

import numpy as np
import pytest
import torch

from export.graph import ServingGraph, to_onnx
from export.parity import check_parity
from export.reduced.judged import keys_for, keys_of_rows
from features import MISSING_KEY, key_of
from models import train as training
from models.data.cache import open_data
from models.data.encoding.encoding import load_encoding
from models.data.encoding.two_hashes import FIRST_CODE, rows_apart
from models.data.encoding.vocabulary import Vocabulary, fit_vocabulary
from models.network.embedding.compact import compact
from models.recipe import RecipeError
from models.training.run import open_run

HASHED = {"model.embedding.hash_buckets": {"item_id": 7, "tab": 4}, "model.embedding.hashes": 2}


def vocabulary_of(buckets: dict[str, int]) -> Vocabulary:
    return fit_vocabulary(("a", *buckets), [(np.array([5, 9]), np.array([2, 2]))], 1, buckets, hashes=2)


def by_hand(vocabulary: Vocabulary, name: str, key: int, table: np.ndarray) -> np.ndarray:
    """A key's embedding, from the two hashes: the code is the key modulo their number, as Python's integers have it."""
    before = 0
    for other, count in vocabulary.buckets.items():
        if other == name:
            break
        before += count
    first = 1 + len(vocabulary.unknown_rows) + before
    small = (vocabulary.buckets[name] - 1) // 2
    code = key % min(small * (small + 1), (1 << 30) // len(vocabulary.buckets))
    return table[first + code % (small + 1)] + table[first + small + 1 + code % small]


@pytest.mark.parametrize("buckets", [{"b": 3}, {"b": 4, "c": 11}, {"b": 1000, "c": 5}, {"b": 1_000_001}])
def test_an_embedding_is_the_sum_of_two_rows(buckets):
    rng = np.random.default_rng(1)
    vocabulary = vocabulary_of(buckets)
    table = rng.normal(size=(vocabulary.n_rows, 3))
    table[0] = 0
    keys = np.concatenate([rng.integers(-(2**63), 2**63 - 1, 500), [1, -1, 2**63 - 1, -(2**63)]])
    for name in buckets:
        rows = vocabulary.rows_of_columns(keys[:, None], [name])[:, 0]
        assert rows.dtype == np.int32 and (rows >= FIRST_CODE).all()
        first, second = rows_apart(torch.from_numpy(rows).long(), list(vocabulary.pools.values()))
        expected = [by_hand(vocabulary, name, key, table) for key in keys.tolist()]
        np.testing.assert_array_equal(table[first] + table[second], expected)
        missing = vocabulary.rows_of_columns(np.array([[MISSING_KEY]]), [name])
        assert missing.tolist() == [[0]]


def test_every_row_is_used_and_no_two_codes_share_both_rows():
    vocabulary = vocabulary_of({"b": 12})
    (pools,) = vocabulary.pools.values()
    codes = torch.arange(pools.first_code, pools.first_code + pools.codes)
    first, second = rows_apart(codes, [pools])
    assert pools.codes == 6 * 5
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == pools.codes
    assert sorted(set(first.tolist()) | set(second.tolist())) == list(range(3, 3 + 11))


def test_sparse_and_dense_gradients_are_those_of_the_sum():
    vocabulary = vocabulary_of({"b": 9})
    pools = list(vocabulary.pools.values())
    torch.manual_seed(1)
    table = torch.randn(vocabulary.n_rows, 3, dtype=torch.float64)
    table[0] = 0
    keys = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, (40, 1))
    rows = torch.from_numpy(vocabulary.rows_of_columns(keys, ["b"])).long()
    rows = torch.cat([rows, torch.from_numpy(vocabulary.rows_of_columns(np.array([[5], [9], [0]]), ["a"])).long()])
    weights = torch.randn(len(rows), 3, dtype=torch.float64)
    # The gradient by hand: each row gets the weights of every value that it is part of.
    expected = np.zeros(table.shape)
    first, second = rows_apart(rows[:, 0], pools)
    for place in range(len(rows)):
        expected[first[place]] += weights[place].numpy()
        expected[second[place]] += weights[place].numpy()
    expected[0] = 0
    live = table.clone().requires_grad_()
    (places,), lookup = compact(live, [rows], 1 + len(vocabulary.unknown_rows), pools)
    embedded = lookup(places)[:, 0]
    torch.testing.assert_close(embedded, table[first] + table[second])
    (embedded * weights).sum().backward()
    assert live.grad is not None
    np.testing.assert_allclose(live.grad.to_dense(), expected, atol=1e-12)


@pytest.mark.parametrize("updates", ["dense", "lazy_adam"])
def test_training_the_graph_and_the_tables_agree_on_the_two_rows(tiny_recipe, tmp_path, updates):
    recipe = tiny_recipe(None, HASHED | {"training.embedding_updates": updates})
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    run = open_run(tmp_path / "run")
    vocabulary = run.encoding.vocabulary
    assert (vocabulary.buckets, vocabulary.hashes) == ({"item_id": 7, "tab": 4}, 2)
    graph = ServingGraph(run.ranker, run.encoding).eval()
    content = to_onnx(graph, run.encoding).SerializeToString()
    parity = check_parity(graph, content, run.encoding.schema, run.kept_rows, 1)
    assert parity.max_abs_difference <= parity.tolerance
    # A new item has the code of its key, as the tables give it.
    key = key_of("item_id", "never seen")
    rows = vocabulary.rows_of_columns(np.array([[key]]), ["item_id"])
    item_keys = torch.zeros(1, 3, dtype=torch.int64)
    item_keys[0, 0] = key
    inputs = {f"{group}_keys": torch.zeros(1, 1, dtype=torch.int64) for group in graph.groups}
    assert graph.rows(inputs | {"item_keys": item_keys})["item"][0, 0] == rows[0, 0]
    # The reduced export finds a key for every row and for every code.
    keys = keys_for(vocabulary, keys_of_rows(vocabulary), np.array([[rows[0, 0], 0]]))
    assert vocabulary.rows_of_columns(keys, ["item_id", "item_id"]).tolist() == [[rows[0, 0], 0]]


def test_an_encoding_keeps_its_hashes(tiny_recipe, tmp_path):
    data = open_data(tiny_recipe(None, HASHED), tmp_path / "cache")
    one = open_data(tiny_recipe(None, HASHED | {"model.embedding.hashes": 1}), tmp_path / "cache")
    data.encoding.save(tmp_path / "encoding.npz")
    loaded = load_encoding(tmp_path / "encoding.npz")
    assert loaded.digest() == data.encoding.digest() != one.encoding.digest()
    assert loaded.vocabulary.hashes == 2


@pytest.mark.parametrize("buckets", [{}, {"item_id": 2}])
def test_two_hashes_without_buckets_for_them_are_refused(tiny_recipe, buckets):
    with pytest.raises(RecipeError, match=r"2 hashes need hash_buckets of 3 or more for a vocabulary"):
        tiny_recipe(None, HASHED | {"model.embedding.hash_buckets": buckets})
