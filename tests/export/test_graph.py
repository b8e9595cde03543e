"""Tests the ONNX graph of every model of the catalogue: it equals the trained model, at any size, on raw inputs."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from small_rankers import Small, random_encoding, raw_inputs, score, small

from export.graph import graph_inputs, to_onnx
from export.parity import BEHAVIOURS, CANDIDATES
from models.catalogue import CATALOGUE
from models.network.build import build_model

COMPOSITIONS = [
    *((name, entry.encoder.type) for name, entry in CATALOGUE.items()),
    ("mmoe", "din+pooling"),
    ("nfwfm", "din"),
]


@pytest.fixture(scope="module", params=COMPOSITIONS, ids="-".join)
def exported(request):
    architecture, encoder = request.param
    model = small(architecture, encoder, position=True)
    graph = to_onnx(model.graph, model.encoding)
    return model, graph, ort.InferenceSession(graph.SerializeToString())


def run(session, inputs):
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_scores_equal_torch_at_every_size(exported):
    model, _, session = exported
    for candidates in CANDIDATES:
        for behaviours in BEHAVIOURS:
            inputs = raw_inputs(model, candidates, behaviours, seed=candidates + behaviours)
            got = run(session, inputs)
            for name, values in score(model, inputs).items():
                np.testing.assert_allclose(got[name], values, atol=1e-5, rtol=0)


def test_inputs_and_outputs_are_named_and_only_candidates_and_behaviours_are_free(exported):
    model, _, session = exported
    assert [i.name for i in session.get_inputs()] == [s.name for s in graph_inputs(model.encoding.schema)]
    assert [tuple(i.shape) for i in session.get_inputs()] == [s.shape for s in graph_inputs(model.encoding.schema)]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [
        (o.name, ["C"], "tensor(float)") for o in model.ranker.outputs
    ]


def test_nothing_of_the_position_is_in_the_graph(exported):
    _, graph, _ = exported
    assert not [t.name for t in [*graph.graph.input, *graph.graph.initializer] if "position" in t.name]


def test_unknown_keys_get_their_vocabularys_unknown_row(exported):
    model, _, session = exported
    inputs = raw_inputs(model, 4, 3)
    a, b = (dict(inputs) for _ in range(2))
    a["item_keys"] = inputs["item_keys"].copy()
    b["item_keys"] = inputs["item_keys"].copy()
    a["item_keys"][:, 0] = 17
    b["item_keys"][:, 0] = -(2**63)
    for name, values in run(session, a).items():
        np.testing.assert_array_equal(values, run(session, b)[name])


def test_the_users_part_is_not_repeated_per_candidate(exported):
    """A tensor that depends on the user only is not expanded to the candidates before the first product with
    weights.
    """
    _, graph, _ = exported
    assert not [n for n in graph.graph.node if n.op_type == "Tile"]


def test_a_schema_of_numbers_alone_has_a_graph_too():
    """Such a graph has no keys and no lookup."""
    mixed = small("esmm", "pooling").recipe
    numbers = {
        "user": [{"name": "age", "type": "numeric"}],
        "item": [{"name": "price", "type": "numeric", "transform": "log1p"}],
    }
    recipe = type(mixed).model_validate(mixed.model_dump(mode="json") | {"features": numbers})
    encoding = random_encoding(recipe, seed=0, known=0)
    model = Small(recipe, encoding, build_model(recipe, encoding).eval())
    session = ort.InferenceSession(to_onnx(model.graph, encoding).SerializeToString())
    assert [i.name for i in session.get_inputs()] == ["user_numerics", "item_numerics"]
    for candidates in (1, 9):
        inputs = raw_inputs(model, candidates, 0, seed=candidates)
        for name, values in score(model, inputs).items():
            np.testing.assert_allclose(run(session, inputs)[name], values, atol=1e-5, rtol=0)


def test_probabilities_are_not_taken_through_logarithms_and_back(exported):
    """The product of a chain is computed directly; only a mixture (ESM2, a calibrated sum) is computed in log space."""
    model, graph, _ = exported
    if "esm2" not in model.recipe.model.architecture and not model.ranker.of_representation:
        made_by = {name: node.op_type for node in graph.graph.node for name in node.output}
        assert {made_by[o.name] for o in model.ranker.outputs if o.kind.type == "probability"} <= {"Sigmoid", "Mul"}


def test_a_graph_holds_no_path_of_the_machine_that_made_it() -> None:
    model = small("mmoe", "din")
    assert str(Path(__file__).parents[2]).encode() not in to_onnx(model.graph, model.encoding).SerializeToString()
