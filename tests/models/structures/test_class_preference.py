"""DUPN's price preference against a float64 softmax cross entropy over the classes (section 4.5.3)."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_rankers import small, training_batch

from features import FeatureSchema
from models.structures.class_preference import ClassPreference, ClassPreferenceOptions, Prefer
from models.structures.representation import Candidates
from models.training.selection import selection_score

EDGES = (-1.0, 0.0, 1.5)
SCHEMA = FeatureSchema.model_validate(
    {"item": [{"name": "stars", "type": "numeric"}, {"name": "price", "type": "numeric"}]}
)


def f64(t):
    return t.detach().double().numpy()


def prefer():
    torch.manual_seed(0)
    return Prefer(6, (5,), column=1, edges=EDGES, dropout=0.0).eval()


def scored(network, rep, of):
    """The output's probability in log space, from the network's logits."""
    task = ClassPreferenceOptions(type="class_preference", name="pprice", label="click", feature="price", edges=EDGES)
    return ClassPreference(task, SCHEMA).scores({"pprice": network(rep, of)})["pprice"]


def candidates(values):
    raw = torch.stack([torch.zeros(len(values)), torch.tensor(values)], 1)
    return Candidates(raw, raw)


def probabilities(network, rep):
    first = network.of_class[0]
    last = network.of_class[2]
    z = np.maximum(rep @ f64(first.weight).T + f64(first.bias), 0) @ f64(last.weight).T + f64(last.bias)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_a_candidates_score_is_the_probability_of_its_class():
    network = prefer()
    rep = np.random.default_rng(0).normal(size=(6, 6))
    values = [math.nan, -5.0, -1.0, -0.5, 1.4, 1.5]
    classes = [0, 1, 2, 2, 3, 4]
    score = scored(network, torch.from_numpy(rep).float(), candidates(values))
    expected = probabilities(network, rep)[np.arange(6), classes]
    np.testing.assert_allclose(f64(score.yes.exp()), expected, atol=1e-6)
    np.testing.assert_allclose(f64(score.no.exp()), 1 - expected, atol=1e-6)


def test_the_classes_probabilities_sum_to_one_for_a_user():
    score = scored(prefer(), torch.randn(1, 6), candidates([math.nan, -2.0, -0.5, 0.5, 2.0]))
    assert float(score.yes.detach().exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_the_loss_is_the_cross_entropy_over_impressions_with_the_label():
    model = small("dupn")
    batch = training_batch(small("dupn"), 64, 4)
    output = next(o for o in model.ranker.outputs if o.name == "pprice")
    assert output.label == output.space == ("click",)
    with torch.no_grad():
        score = model.ranker(batch)["pprice"]
        loss = model.ranker.losses(batch)["pprice"]
    acted = batch["label/click"] > 0
    assert float(loss) == pytest.approx(float(-score[acted].mean()), rel=1e-5)


def test_evaluation_counts_the_same_classes_as_the_network():
    task = ClassPreferenceOptions(type="class_preference", name="pprice", label="click", feature="price", edges=EDGES)
    values = [math.nan, -5.0, -1.0, -0.5, 0.0, 1.4, 1.5, 9.0]
    numerics = np.stack([np.zeros(8), np.array(values)], 1).astype(np.float32)
    assert ClassPreference(task, SCHEMA).class_of(numerics).tolist() == [0, 1, 2, 2, 3, 3, 4, 4]


def test_what_the_score_knows_of_the_candidate_is_its_class_alone():
    model = small("dupn")
    batch = training_batch(small("dupn"), 16, 4)
    other = batch | {"item_rows": batch["item_rows"].flip(0)}
    with torch.no_grad():
        torch.testing.assert_close(model.ranker(batch)["pprice"], model.ranker(other)["pprice"])
        assert (model.ranker(batch)["pctr"] - model.ranker(other)["pctr"]).abs().max() > 1e-3


def test_gradients_are_finite_at_extreme_logits():
    network = prefer()
    with torch.no_grad():
        network.of_class[2].bias.copy_(torch.tensor([80.0, -80.0, 0.0, 80.0, -80.0]))
    score = scored(network, torch.randn(5, 6), candidates([math.nan, -2.0, -0.5, 0.5, 2.0]))
    (-score.yes.sum() - score.no.sum()).backward()
    assert torch.isfinite(score.yes).all() and torch.isfinite(score.no).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_its_cross_entropy_selects_the_best_weights():
    better, worse = (
        {"pprice": {"log_loss": x, "share_log_loss": 1.6}, "pctr": {"auc": 0.7, "log_loss": 0.5}} for x in (1.2, 1.5)
    )
    assert selection_score(better, ["pprice"]) == -1.2
    assert selection_score(better, ["pprice", "pctr"]) > selection_score(worse, ["pprice", "pctr"])


def test_edges_that_do_not_ascend_are_refused():
    with pytest.raises(ValidationError, match="ascend"):
        ClassPreferenceOptions(type="class_preference", name="pprice", label="click", feature="price", edges=(1.0, 0.0))
