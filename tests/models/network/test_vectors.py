"""Tests the outputs of the graph that are no task score: what they hold, what they cost, and recipes without them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_rankers import Small, raw_inputs, score, small

from export.graph import to_onnx
from export.parity import check_parity
from models.errors import RecipeError
from models.network.ensemble import Ensemble
from service.bundle.loading import open_session

BOTH = ["user_representation", "item_vector"]


def encoded_alone(of: Small, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The results of the encoders that do not read the candidate, and the embedded item features, part by part."""
    rows = of.graph.rows({name: torch.from_numpy(values) for name, values in inputs.items()})
    batch = {f"{group}_rows": r for group, r in rows.items()}
    batch |= {name: torch.from_numpy(values) for name, values in inputs.items()}
    for name in ("behaviour_rows", "behaviour_times", "behaviour_numerics"):
        batch[name] = batch[name].unsqueeze(0)
    with torch.no_grad():
        view = of.ranker.embedded(batch).view
        parts = [e(view).reshape(-1).numpy() for e in of.ranker.encoders if not e.sees_candidate]
        return np.concatenate(parts), of.ranker.inputs.group("item", batch, of.ranker.inputs.reading(batch)).numpy()


@pytest.mark.parametrize(("architecture", "encoder"), [("dupn", None), ("mmoe", "dupn+din"), ("esmm", "pooling")])
def test_the_vectors_are_what_the_scores_are_computed_from(architecture: str, encoder: str | None) -> None:
    model = small(architecture, encoder, outputs=BOTH)
    inputs = raw_inputs(model, 9, 5)
    computed = score(model, inputs)
    user, item = encoded_alone(model, inputs)
    np.testing.assert_allclose(computed["user_representation"], user, rtol=1e-6)
    np.testing.assert_allclose(computed["item_vector"], item, rtol=1e-6)
    # The vectors change no score.
    plain = score(small(architecture, encoder), inputs)
    assert list(computed) == [*plain, *BOTH]
    for name, values in plain.items():
        np.testing.assert_array_equal(computed[name], values)


def test_the_graph_gives_the_vectors_of_torch_and_computes_nothing_for_them_alone() -> None:
    model = small("mmoe", "dupn+din", outputs=BOTH)
    graph = to_onnx(model.graph, model.encoding)
    shapes = {o.name: [a.dim_param or a.dim_value for a in o.type.tensor_type.shape.dim] for o in graph.graph.output}
    assert shapes == {
        "pctr": ["C"],
        "plike": ["C"],
        "user_representation": [model.ranker.vector_shapes["user_representation"][0]],
        "item_vector": ["C", model.ranker.inputs.width("item")],
    }
    pool = [raw_inputs(model, 1, 4, seed=i) for i in range(20)]
    rows = {name: np.concatenate([one[name] for one in pool]) for name in pool[0]}
    parity = check_parity(model.graph, graph.SerializeToString(), model.encoding.schema, rows, 1)
    assert 0.0 < parity.max_abs_difference <= parity.tolerance
    # One more node: it drops the axis of the one user. ONNX Runtime runs all nodes of a graph, so that a vector that
    # needed nodes of its own would be computed in every ranking.
    plain = small("mmoe", "dupn+din")
    assert len(graph.graph.node) <= len(to_onnx(plain.graph, plain.encoding).graph.node) + 1
    session = open_session(graph.SerializeToString(), 1)
    (scores,) = session.run(["pctr"], raw_inputs(model, 3, 2))
    assert scores.shape == (3,)


def test_an_ensemble_gives_the_vectors_of_its_first_member() -> None:
    first = small("mmoe", "dupn", outputs=BOTH)
    second = small("mmoe", "dupn", outputs=BOTH, seed=1)
    ensemble = Ensemble(first.recipe, first.encoding, first.ranker.structures, None, [second.ranker])
    ensemble.load_state_dict(first.ranker.state_dict(), strict=False)
    both = Small(first.recipe, first.encoding, ensemble.eval())
    inputs = raw_inputs(first, 6, 4)
    of_first = score(first, inputs)
    computed = score(both, inputs)
    for name in BOTH:
        np.testing.assert_array_equal(computed[name], of_first[name])
    assert np.abs(computed["pctr"] - of_first["pctr"]).max() > 1e-4, "the scores are those of both members"


def test_a_model_without_a_representation_is_refused_by_its_key() -> None:
    with pytest.raises(RecipeError, match=r"model\.outputs: 'user_representation' needs behaviours and an encoder"):
        small("mmoe", "din", outputs=["user_representation"])
    assert small("mmoe", "din", outputs=["item_vector"]).ranker.vector_shapes == {"item_vector": ("C", 18)}


def test_an_unknown_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.outputs"):
        small("mmoe", "din", outputs=["item_vectr"])
