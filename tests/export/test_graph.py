"""Promises of the ONNX graph of every model in the catalogue: it is the trained model, at any size, on raw keys and numbers."""

import numpy as np
import onnxruntime as ort
import pytest
from small_rankers import raw_inputs, score, small

from export.graph import graph_inputs, to_onnx
from export.parity import BEHAVIOURS, CANDIDATES
from models.catalogue import CATALOGUE

COMPOSITIONS = [*((name, entry.encoder.type) for name, entry in CATALOGUE.items()), ("mmoe", "din+pooling"), ("nfwfm", "din")]


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
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [(o.name, ["C"], "tensor(float)") for o in model.ranker.outputs]


def test_nothing_of_the_position_is_in_the_graph(exported):
    _, graph, _ = exported
    assert not [t.name for t in [*graph.graph.input, *graph.graph.initializer] if "position" in t.name]


def test_unknown_keys_get_their_vocabularys_unknown_row(exported):
    model, _, session = exported
    inputs = raw_inputs(model, 4, 3)
    a, b = (dict(inputs) for _ in range(2))
    a["item_keys"], b["item_keys"] = inputs["item_keys"].copy(), inputs["item_keys"].copy()
    a["item_keys"][:, 0], b["item_keys"][:, 0] = 17, -(2**63)
    for name, values in run(session, a).items():
        np.testing.assert_array_equal(values, run(session, b)[name])


def test_the_users_part_is_not_repeated_per_candidate(exported):
    """No tensor that depends on the user alone is expanded to the candidates before the first product with weights."""
    _, graph, _ = exported
    assert not [n for n in graph.graph.node if n.op_type == "Tile"]
