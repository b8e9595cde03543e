"""Tests embeddings of several widths: a vocabulary's values have the first numbers of their row, everywhere alike."""

import numpy as np
import pytest
import torch
from small_rankers import raw_inputs, score, small
from torch import nn

from export.graph import to_onnx
from models.recipe import RecipeError
from service.bundle.loading import open_session

WIDTHS = {"user_id": 5, "item_id": 4, "tag": 3, "shop": 1, "page": 2, "action": 2}
EMBEDDING = {"dim": 5, "unknown_rate": 0.0, "widths": WIDTHS}


def vector_by_hand(model, group, rows):
    """The key part of a group's vector in float64: single values in column order, then pooled lists."""
    table = model.ranker.inputs.table.weight.detach().double().numpy()
    pieces = []
    pooled = []
    column = 0
    for feature in model.encoding.schema.group(group):
        width = WIDTHS.get(getattr(feature, "vocabulary_name", ""), EMBEDDING["dim"])
        if feature.type == "categorical":
            pieces.append(table[rows[:, column], :width])
            column += 1
        elif feature.type == "multi_categorical":
            values = rows[:, column : column + feature.max_values]
            count = np.maximum((values > 0).sum(1, keepdims=True), 1)
            pooled.append(table[values, :width].sum(1) / count)
            column += feature.max_values
    return np.concatenate([*pieces, *pooled], 1)


@pytest.mark.parametrize("group", ["user", "item", "context"])
def test_a_groups_vector_has_each_value_in_the_width_of_its_vocabulary(group):
    model = small("mmoe", "pooling", embedding=EMBEDDING)
    vocabulary = model.encoding.vocabulary
    columns = model.ranker.inputs.groups[group].keys.unknown.numel()
    rng = np.random.default_rng(1)
    rows = rng.integers(0, vocabulary.n_rows, size=(30, columns))
    inputs = model.ranker.eval().inputs
    embedded = inputs.groups[group].keys(torch.from_numpy(rows), inputs.table, 0.0)
    expected = vector_by_hand(model, group, rows)
    np.testing.assert_allclose(embedded.detach().numpy(), expected, atol=1e-6)
    part = inputs.part(group)
    assert part.width == expected.shape[1] + part.numerics + part.binned * EMBEDDING["dim"]


@pytest.mark.parametrize(("name", "encoder"), [("mmoe", "din+pooling"), ("dupn", "dupn")])
def test_the_graph_scores_as_torch_does(name, encoder):
    model = small(name, encoder, embedding=EMBEDDING)
    session = open_session(to_onnx(model.graph, model.encoding).SerializeToString(), 1)
    names = [output.name for output in session.get_outputs()]
    for candidates, behaviours in ((1, 0), (7, 2), (64, 17)):
        inputs = raw_inputs(model, candidates, behaviours, seed=candidates)
        scores = dict(zip(names, session.run(names, inputs), strict=True))
        for output, values in score(model, inputs).items():
            np.testing.assert_allclose(scores[output], values, atol=1e-5, rtol=0)


def test_the_rest_of_a_row_is_neither_read_nor_trained():
    model = small("mmoe", "din", embedding=EMBEDDING)
    inputs = model.ranker.inputs
    keys = inputs.groups["context"].keys
    rows = torch.arange(1, 6)[:, None]
    keys(rows, inputs.table, 0.0).sum().backward()
    gradient = inputs.table.weight.grad
    assert (gradient[1:6, : WIDTHS["page"]] == 1).all()
    assert (gradient[:, WIDTHS["page"] :] == 0).all()


def test_a_model_of_one_width_is_the_same_bit_for_bit():
    plain = small("mmoe", "din", embedding={"dim": 5, "unknown_rate": 0.0})
    every = dict.fromkeys(WIDTHS, 5)
    same = small("mmoe", "din", embedding={"dim": 5, "unknown_rate": 0.0, "widths": every})
    inputs = raw_inputs(plain, 9, 3)
    for output, values in score(plain, inputs).items():
        assert np.array_equal(values, score(same, inputs)[output])


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"item_id": 6}, "'item_id' is wider than dim, 5, the width of the table"),
        ({"itm_id": 2}, r"model\.embedding\.widths: 'itm_id' is the vocabulary of no feature"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, words):
    with pytest.raises(RecipeError, match=words):
        small("mmoe", embedding={"dim": 5, "widths": widths})


def test_a_trunk_that_multiplies_embeddings_wants_one_width():
    with pytest.raises(RecipeError, match="'nfwfm' multiplies embeddings with one another, so they have one width"):
        small("nfwfm", embedding=EMBEDDING)
    assert isinstance(small("nfwfm").ranker, nn.Module)
