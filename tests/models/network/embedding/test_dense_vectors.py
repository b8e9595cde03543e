"""Tests dense vectors in the network: a group's vector in float64, gradients, hiding, and the graph over its sizes."""

import numpy as np
import pytest
import torch
from small_rankers import FEATURES, raw_inputs, score, small, training_batch

from export.graph import to_onnx
from features import RowLayout
from models.network.embedding.dense_vectors import DenseVectors
from service.bundle.loading import open_session

# Vectors stand before, between and behind single numbers, and one is carried by behaviours.
WITH_VECTORS = {
    "user": [{"name": "taste", "type": "vector", "width": 2}, *FEATURES["user"]],
    "item": [
        {"name": "text", "type": "vector", "width": 3},
        *FEATURES["item"][:-1],
        {"name": "image", "type": "vector", "width": 4, "project": 2},
        FEATURES["item"][-1],
    ],
    "context": [*FEATURES["context"], {"name": "query", "type": "vector", "width": 2, "project": 3}],
    "behaviour": FEATURES["behaviour"] | {"item_features": ["image", "stars", "shop", "text", "tag", "item_id"]},
}
PLAIN = {"dim": 4, "unknown_rate": 0.0}


def vectors_by_hand(features, raw, layer):
    """[x, 1] or [0, 0], mapped by the projection where there is one, in float64."""
    pieces = []
    layout = RowLayout(features)
    vectors = [feature for feature in features if feature.type == "vector"]
    for feature, projection in zip(vectors, layer.projections, strict=True):
        x = raw[:, layout.vector_columns[feature.name]].astype(np.float64)
        present = ~np.isnan(x).any(1, keepdims=True)
        with_presence = np.concatenate([np.where(present, x, 0), present], 1)
        if feature.project:
            with_presence = with_presence @ projection.weight.detach().double().numpy().T
        pieces.append(with_presence)
    return np.concatenate(pieces, 1)


@pytest.mark.parametrize("group", ["user", "item", "context"])
def test_a_groups_vector_has_the_numbers_then_the_vectors_then_the_bins(group):
    model = small("mmoe", features=WITH_VECTORS)
    inputs = model.ranker.inputs
    module = inputs.groups[group]
    features = model.encoding.schema.group(group)
    raw = raw_inputs(model, 20, 1)[f"{group}_numerics"]
    rows = torch.ones((len(raw), module.keys.unknown.numel()), dtype=torch.int64)
    embedded = module(rows, torch.from_numpy(raw), inputs.table, 0.0).detach().numpy()
    # The single numbers, by the statistics of the group.
    single = raw[:, list(RowLayout(features).numeric_columns.values())].astype(np.float64)
    log1p = [feature.transform == "log1p" for feature in features if feature.type == "numeric"]
    value = np.where(log1p, np.sign(single) * np.log1p(np.abs(single)), single)
    stats = model.encoding.numerics[group]
    scaled = np.tanh((value - stats.mean.astype(np.float64)) / stats.deviation)
    scaled = np.where(np.isnan(single), module.numerics.missing.detach().double().numpy(), scaled)
    start = sum(module.keys.piece_widths)
    numbers = np.concatenate([scaled, vectors_by_hand(features, raw, module.vectors)], 1)
    np.testing.assert_allclose(embedded[:, start : start + numbers.shape[1]], numbers, atol=2e-6)
    part = inputs.part(group)
    assert part.numerics == numbers.shape[1]
    assert part.width == embedded.shape[1] == start + numbers.shape[1] + part.binned * part.dim


def test_a_missing_vector_is_zeros_also_behind_the_projection_and_gives_no_gradient():
    features = small("mmoe", features=WITH_VECTORS).encoding.schema.item
    layer = DenseVectors(features)
    raw = torch.full((2, RowLayout(features).numeric_width), torch.nan)
    raw[1] = 1.0
    text, image = layer(raw, 0.0)
    torch.testing.assert_close(text, torch.tensor([[0.0] * 4, [1.0] * 4]))
    assert image[0].tolist() == [0.0, 0.0]
    image.sum().backward()
    torch.testing.assert_close(layer.projections[1].weight.grad, torch.ones(2, 5))  # of the second row alone


def test_training_hides_whole_vectors_at_the_rate_of_unknown_ids():
    features = small("mmoe", features=WITH_VECTORS).encoding.schema.item
    layer = DenseVectors(features)
    torch.manual_seed(0)
    text, _ = layer.train()(torch.ones(4000, RowLayout(features).numeric_width), 0.2)
    assert set(map(tuple, text.tolist())) == {(0.0,) * 4, (1.0,) * 4}
    assert 0.17 < float((text[:, 0] == 0).float().mean()) < 0.23
    hidden, _ = layer.eval()(torch.ones(4000, RowLayout(features).numeric_width), 0.2)
    assert bool((hidden == 1).all())


@pytest.mark.parametrize(("architecture", "piecewise"), [("mmoe", True), ("dupn", False)])
def test_the_graph_scores_as_torch_does_over_the_grid(architecture, piecewise):
    section = PLAIN | ({"numerics": {"encoding": "piecewise_linear", "bins": 3}} if piecewise else {})
    model = small(architecture, features=WITH_VECTORS, embedding=section)
    session = open_session(to_onnx(model.graph, model.encoding).SerializeToString(), 1)
    for candidates, behaviours in ((1, 0), (7, 2), (64, 17)):
        inputs = raw_inputs(model, candidates, behaviours, seed=candidates)
        for name, values in score(model, inputs).items():
            np.testing.assert_allclose(session.run([name], inputs)[0], values, atol=1e-5)
    # A vector reaches the scores, and so does its absence.
    inputs = raw_inputs(model, 5, 3, missing=0.0)
    columns = RowLayout(model.encoding.schema.item).vector_columns["text"]
    other = inputs | {"item_numerics": inputs["item_numerics"].copy()}
    other["item_numerics"][:, columns] = np.nan
    expected, changed = score(model, inputs), score(model, other)
    for name, values in changed.items():
        np.testing.assert_allclose(session.run([name], other)[0], values, atol=1e-5)
    moved = [name for name in expected if not np.allclose(expected[name], changed[name])]
    # DUPN's tasks on the representation read numbers of the candidate alone.
    assert sorted(moved) == sorted(set(expected) - {"prank", "pprice"})


def test_tasks_on_the_representation_read_the_single_numbers_beside_vectors():
    """The columns of `rank_weights` and `class_preference` are those of the row, whose vectors come first here."""
    model = small("dupn", features=WITH_VECTORS)
    inputs = raw_inputs(model, 6, 3, missing=0.0)
    batch = {"item_numerics": torch.from_numpy(inputs["item_numerics"])}
    candidates = model.ranker.inputs.candidates(batch)
    columns = RowLayout(model.encoding.schema.item).numeric_columns
    stats = model.encoding.numerics["item"]
    for place, (name, column) in enumerate(columns.items()):
        value = inputs["item_numerics"][:, column].astype(np.float64)
        value = np.sign(value) * np.log1p(np.abs(value)) if name == "price" else value
        scaled = np.tanh((value - stats.mean[place]) / stats.deviation[place])
        np.testing.assert_allclose(candidates.scaled[:, column].detach().numpy(), scaled, atol=2e-6)


def test_a_batch_with_vectors_trains_with_finite_gradients():
    model = small("mmoe", features=WITH_VECTORS)
    batch = training_batch(model, 32, 4)
    schema = model.encoding.schema
    groups = {"user": schema.user, "item": schema.item, "context": schema.context}
    for name, features in (groups | {"behaviour": schema.behaviour_item_features}).items():
        for columns in RowLayout(features).vector_columns.values():
            vector = batch[f"{name}_numerics"][..., columns]
            vector[torch.isnan(vector).any(-1)] = torch.nan
    sum(model.ranker.train().losses(batch).values()).backward()
    for name, parameter in model.ranker.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert model.ranker.inputs.groups["item"].vectors.projections[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", ["nfwfm", "pepnet", "youtube2019", "home"])
def test_trunks_that_look_into_a_group_take_the_numbers_of_a_vector(architecture):
    model = small(architecture, features=WITH_VECTORS)
    inputs = raw_inputs(model, 5, 3)
    assert all(np.isfinite(values).all() for values in score(model, inputs).values())
