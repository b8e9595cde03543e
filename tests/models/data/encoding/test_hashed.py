"""Tests hashed vocabularies from the table to the served graph, and that keys are counted in bounded memory."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from export.graph import ServingGraph, to_onnx
from export.parity import check_parity
from export.reduced.judged import keys_of_rows
from features import key_of
from models import train as training
from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.data.encoding.encoding import load_encoding
from models.data.encoding.vocabulary import Vocabulary, fit_vocabulary, grown, totalled
from models.network.build import build_model
from models.recipe import RecipeError
from models.training.run import open_run

HASHED = {"model.embedding.hash_buckets": {"item_id": 7, "tab": 3}}


def test_a_hashed_key_has_the_row_of_its_bucket_and_other_keys_their_own():
    names = ("a", "b", "c")
    known = np.array([5, -8, 9], dtype=np.int64)
    vocabulary = fit_vocabulary(names, [(known, np.array([2, 2, 1]))], 2, {"b": 4})
    assert vocabulary.n_rows == 1 + 3 + 4 + 2
    keys = np.array([[5, 6, 0], [7, -1, -8], [0, 0, 9]], dtype=np.int64)
    rows = vocabulary.rows_of_columns(keys, names)
    # Row 0 is missing, 1 to 3 are unknown, 4 to 7 are the buckets, then the known keys in ascending order.
    assert rows.tolist() == [[9, 4 + 6 % 4, 0], [1, 4 + (-1) % 4, 8], [0, 0, 3]]


def test_keys_are_added_up_as_they_come(monkeypatch):
    monkeypatch.setattr("models.data.encoding.vocabulary.LEAST_WAITING", 50)
    rng = np.random.default_rng(1)
    chunks = [np.unique(rng.integers(0, 200, 40), return_counts=True) for _ in range(100)]

    concatenated = np.concatenate
    sizes = []

    def measured(parts):
        sizes.append(sum(map(len, parts)))
        return concatenated(parts)

    monkeypatch.setattr(np, "concatenate", measured)
    distinct, totals = totalled(iter(chunks))
    monkeypatch.undo()
    expected = np.zeros(200)
    for keys, counts in chunks:
        expected[keys] += counts
    assert distinct.tolist() == np.flatnonzero(expected).tolist()
    assert totals.tolist() == expected[expected > 0].tolist()
    assert max(sizes) <= 2 * len(distinct) + 50, "no more than the keys so far and as many again wait"


def test_training_the_graph_and_the_encoding_of_the_tables_agree_on_the_buckets(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, HASHED)
    training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    run = open_run(tmp_path / "run")
    assert run.encoding.vocabulary.buckets == {"item_id": 7, "tab": 3}
    graph = ServingGraph(run.ranker, run.encoding).eval()
    content = to_onnx(graph, run.encoding).SerializeToString()
    # Random keys, most of them never seen, and those of the data.
    parity = check_parity(graph, content, run.encoding.schema, run.kept_rows, 1)
    assert parity.max_abs_difference <= parity.tolerance
    # A new item has the row of its bucket, as the tables give it.
    key = key_of("item_id", "never seen")
    (first,), (count,) = run.encoding.vocabulary.shared_rows(["item_id"])
    rows = run.encoding.vocabulary.rows_of_columns(np.array([[key]]), ["item_id"])
    assert rows.tolist() == [[first + key % count]]
    item_keys = torch.zeros(1, 3, dtype=torch.int64)
    item_keys[0, 0] = key
    inputs = {f"{group}_keys": torch.zeros(1, 1, dtype=torch.int64) for group in graph.groups}
    assert graph.rows(inputs | {"item_keys": item_keys})["item"][0, 0] == rows[0, 0]
    # The lookup of the reduced export finds a key for every row.
    keys = keys_of_rows(run.encoding.vocabulary)
    bucket_keys = keys[first : first + count]
    of_buckets = run.encoding.vocabulary.rows_of_columns(bucket_keys[:, None], ["item_id"])[:, 0]
    assert of_buckets.tolist() == list(range(first, first + count))
    assert ort.InferenceSession(content).get_outputs()


def test_an_encoding_keeps_its_buckets_and_no_hashed_key_has_a_row_of_its_own(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, HASHED)
    data = open_data(recipe, tmp_path / "cache")
    plain = open_data(tiny_recipe(), tmp_path / "cache")
    assert data.encoding.vocabulary.n_rows < plain.encoding.vocabulary.n_rows
    assert key_of("item_id", "1") not in data.encoding.vocabulary.keys
    data.encoding.save(tmp_path / "encoding.npz")
    loaded = load_encoding(tmp_path / "encoding.npz")
    assert loaded.vocabulary.buckets == data.encoding.vocabulary.buckets
    assert loaded.digest() == data.encoding.digest()
    first, count = data.encoding.vocabulary.shared_rows(["item_id"])
    batch = next(iter(ordered_batches(data, "test", 64)))
    of_item = batch["item_rows"][:, 0].numpy()
    assert ((of_item >= first) & (of_item < first + count)).all()


def test_a_vocabulary_that_no_feature_has_is_refused(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, {"model.embedding.hash_buckets": {"itm_id": 10}})
    data = open_data(recipe, tmp_path / "cache")
    with pytest.raises(RecipeError, match=r"model\.embedding\.hash_buckets: 'itm_id' is the vocabulary of no feature"):
        build_model(recipe, data.encoding)


def test_a_continued_vocabulary_keeps_its_buckets():
    earlier = Vocabulary(np.array([10]), np.array([7], np.int32), {"a": 1, "b": 2}, {"b": 4})
    fitted = Vocabulary(np.array([10, 20]), np.array([7, 8], np.int32), {"a": 1, "b": 2}, {"b": 4})
    both = grown(earlier, fitted)
    assert (both.n_rows, both.buckets, both.rows.tolist()) == (9, {"b": 4}, [7, 8])
