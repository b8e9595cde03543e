"""Tests the user-bias tower: it moves all candidates of a ranking by the same amount, learns, and is served."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from small_rankers import raw_inputs, score, small, training_batch

from export.graph import to_onnx
from models.errors import RecipeError

BIAS = {"hidden": 6, "encoders": [{"type": "pooling"}]}
TASKS = [
    {"type": "esmm", "click": "click", "conversion": "like"},
    {"type": "independent", "name": "pcart", "label": "cart"},
]


def f64(t):
    return t.detach().double().numpy()


def biased(**model):
    return small("mmoe", tasks=TASKS, **{"user_bias": BIAS, "encoders": [], **model})


def without(model):
    """The same weights with a tower that adds nothing."""
    with torch.no_grad():
        model.ranker.user_bias.last.weight.zero_()
        model.ranker.user_bias.last.bias.zero_()
    return model


def logit(p):
    return np.log(p / (1 - p))


def test_it_moves_all_candidates_alike_and_so_keeps_their_order():
    inputs = raw_inputs(biased(), 9, 5, seed=1)
    moved = score(biased(), inputs)
    plain = score(without(biased()), inputs)
    for name in ("pctr", "pcvr", "pcart"):
        shift = logit(moved[name].astype(float)) - logit(plain[name].astype(float))
        np.testing.assert_allclose(shift, shift[0], atol=1e-4)
        assert abs(shift[0]) > 0.01
        assert np.argsort(moved[name]).tolist() == np.argsort(plain[name]).tolist()


def test_its_addend_is_a_network_on_the_user_and_the_pooled_sequence():
    ranker = biased().ranker
    batch = training_batch(biased(), 7, 5)
    embedded = ranker.embedded(batch)
    behaviours = f64(embedded.view.behaviours)
    real = embedded.view.mask.numpy()[..., None].astype(float)
    count = real.sum(1)
    pooled = np.concatenate([(behaviours * real).sum(1) / np.maximum(count, 1), np.log1p(count) / 4.0], 1)
    x = np.concatenate([f64(embedded.groups["user"]), pooled], 1)
    tower = ranker.user_bias
    weight = np.concatenate([f64(w) for w in tower.first.weights])
    hidden = np.maximum(x @ weight + f64(tower.first.bias), 0)
    expected = hidden @ f64(tower.last.weight).T + f64(tower.last.bias)
    got = f64(tower(embedded.groups["user"], embedded.view))
    assert got.shape == (3, 7, 1)
    np.testing.assert_allclose(got[..., 0].T, expected, atol=1e-5)


def test_the_graph_has_it():
    model = biased()
    session = ort.InferenceSession(to_onnx(model.graph, model.encoding).SerializeToString())
    for candidates, behaviours in ((1, 0), (1, 7), (13, 0), (13, 1), (13, 50)):
        inputs = raw_inputs(model, candidates, behaviours, seed=candidates + behaviours)
        names = [o.name for o in session.get_outputs()]
        got = dict(zip(names, session.run(names, inputs), strict=True))
        for name, values in score(model, inputs).items():
            np.testing.assert_allclose(got[name], values, atol=1e-5, rtol=0)


def test_every_weight_of_it_learns():
    ranker = biased().ranker.train()
    sum(ranker.losses(training_batch(biased(), 64, 5)).values()).backward()
    for name, parameter in ranker.user_bias.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_head_of_several_logits_gets_an_addend_for_each():
    tasks = [
        *TASKS,
        {"type": "independent", "name": "level", "label": "rating", "kind": {"type": "class", "classes": 3}},
    ]
    model = small("mmoe", tasks=tasks, encoders=[], user_bias=BIAS)
    assert model.ranker.user_bias.last.out_features == 4 * 3
    assert {v.shape for v in score(model, raw_inputs(model, 6, 4)).values()} == {(6,)}


def test_the_trunk_reads_the_groups_that_the_recipe_names():
    whole = biased().ranker
    item_alone = biased(trunk_groups=["item"]).ranker
    widths = {name: whole.inputs.part(name).width for name in ("user", "context", "item")}
    assert [len(w) for w in whole.trunk.first.weights] == list(widths.values())
    assert [len(w) for w in item_alone.trunk.first.weights] == [widths["item"]]


def test_an_encoder_that_reads_the_candidate_is_refused():
    with pytest.raises(RecipeError, match="'din' reads the candidate, but the user-bias tower reads only the user"):
        biased(user_bias={"encoders": [{"type": "din"}]})


def test_behaviours_that_nobody_reads_are_refused():
    with pytest.raises(RecipeError, match="no encoder reads the behaviours"):
        small("mmoe", tasks=TASKS, encoders=[])
    with pytest.raises(RecipeError, match="no encoder reads the behaviours"):
        biased(user_bias={"hidden": 4})
