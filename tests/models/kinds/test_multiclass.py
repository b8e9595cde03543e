"""Tests the kind `class` against a float64 softmax cross entropy: scores, loss, gradient, metrics, labels and graph."""

import json
import re

import numpy as np
import onnxruntime as ort
import pytest
import torch
from small_rankers import raw_inputs, score, small, training_batch

from export.graph import to_onnx
from models.data.cache import open_data
from models.kinds import KINDS, Labelled
from models.kinds.multiclass import MultiClass
from models.recipe import RecipeError
from models.train import train

CLASSES = 4
STARS = {"type": "independent", "name": "pstars", "label": "grade", "kind": {"type": "class", "classes": CLASSES}}
NAMES = [f"pstars_{i}" for i in range(CLASSES)]
CLICK = {"type": "independent", "name": "pctr", "label": "click"}


def kind():
    return MultiClass(classes=CLASSES)


def logits(n=50, scale=3.0):
    return np.random.default_rng(0).normal(size=(n, CLASSES)) * scale


def labels(n=50):
    return np.random.default_rng(1).integers(0, CLASSES, n)


def probabilities(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def with_stars(architecture="mmoe"):
    return small(architecture, tasks=[CLICK, STARS])


def starred(batch):
    generator = torch.Generator().manual_seed(0)
    n = len(batch["request_time"])
    return batch | {"label/grade": torch.randint(0, CLASSES, (n,), generator=generator).float()}


def test_the_scores_are_the_softmax_of_the_logits():
    z = logits()
    columns = kind().columns(kind().score(torch.from_numpy(z)))
    served = np.stack([kind().served(column).numpy() for column in columns], 1)
    np.testing.assert_allclose(served, probabilities(z), atol=1e-12)


def test_the_loss_is_the_cross_entropy_of_the_label():
    z = logits()
    y = labels()
    loss = kind().loss(kind().score(torch.from_numpy(z)), torch.from_numpy(y).float())
    np.testing.assert_allclose(loss.numpy(), -np.log(probabilities(z)[np.arange(50), y]), atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    z = logits(n=6)
    y = labels(n=6)
    given = torch.from_numpy(z).requires_grad_()
    kind().loss(kind().score(given), torch.from_numpy(y).float()).sum().backward()
    for i, c in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[i, c] = 1e-6
        both = [-np.log(probabilities(z + s)[np.arange(6), y]).sum() for s in (step, -step)]
        assert float(given.grad[i, c]) == pytest.approx((both[0] - both[1]) / 2e-6, abs=1e-7)


def test_loss_and_gradient_are_finite_at_extreme_logits():
    given = torch.tensor([[80.0, -80.0, 0.0, 80.0], [-80.0, 80.0, -80.0, 80.0]], requires_grad=True)
    loss = kind().loss(kind().score(given), torch.tensor([1.0, 0.0])).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(given.grad).all()


def test_metrics_are_the_cross_entropy_and_the_accuracy():
    z = logits(400)
    y = labels(400)
    p = probabilities(z)
    labelled = Labelled(y.astype(np.float32), np.zeros(400), np.zeros((400, 0)), (10,))
    measured = kind().metrics(np.log(p), labelled)
    assert measured["log_loss"] == pytest.approx(-np.log(p[np.arange(400), y]).mean())
    assert measured["accuracy"] == pytest.approx((z.argmax(1) == y).mean())
    shares = np.bincount(y) / 400
    assert measured["share_log_loss"] == pytest.approx(-(shares * np.log(shares)).sum())


def test_a_class_task_has_one_head_and_one_score_per_class():
    model = with_stars().ranker
    assert model.heads == ("pctr", "pstars")
    assert model.score_names == ("pctr", *NAMES)
    assert [output.kind.type for output in model.outputs] == ["probability", "class"]


def test_the_scores_of_a_candidate_sum_to_one_and_the_loss_reads_them():
    model = with_stars().ranker
    batch = starred(training_batch(with_stars(), 32, 4))
    with torch.no_grad():
        scores = model(batch)
        losses = model.losses(batch)
    columns = torch.stack([scores[name] for name in NAMES], 1)
    torch.testing.assert_close(columns.exp().sum(1), torch.ones(32))
    chosen = columns.gather(1, batch["label/grade"].long()[:, None])[:, 0]
    assert float(losses["pstars"]) == pytest.approx(float(-chosen.mean()), rel=1e-6)


@pytest.fixture(scope="module")
def exported():
    """The model and a session of its graph: an export takes seconds."""
    model = with_stars()
    return model, ort.InferenceSession(to_onnx(model.graph, model.encoding).SerializeToString())


@pytest.mark.parametrize("candidates", [1, 7, 64])
def test_the_graph_scores_as_torch_does(exported, candidates):
    model, session = exported
    inputs = raw_inputs(model, candidates, 3)
    got = dict(zip(["pctr", *NAMES], session.run(["pctr", *NAMES], inputs), strict=True))
    for name, expected in score(model, inputs).items():
        assert got[name].shape == (candidates,) and got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], expected, atol=1e-6)


@pytest.mark.parametrize("bad", [CLASSES, -1, 1.5])
def test_a_label_that_is_no_class_is_refused(tiny_recipe, tables, tmp_path, bad):
    tables["impressions"]["grade"] = np.arange(len(tables["impressions"])) % CLASSES
    tables["impressions"]["grade"] = tables["impressions"]["grade"].astype(float)
    tables["impressions"].loc[7, "grade"] = bad
    recipe = tiny_recipe(tables, {"tasks": [CLICK, STARS], "extra_evaluations": []})
    with pytest.raises(RecipeError, match="label 'grade' must be the number of a class, counted from 0, in every row"):
        open_data(recipe, tmp_path / "cache")


def test_a_column_that_was_encoded_as_a_number_is_checked_again_as_a_class(tiny_recipe, tables, tmp_path):
    tables["impressions"]["grade"] = 1.0
    tables["impressions"].loc[7, "grade"] = 1.5
    as_number = {"tasks": [STARS | {"kind": "value"}], "extra_evaluations": []}
    open_data(tiny_recipe(tables, as_number), tmp_path / "cache")
    with pytest.raises(RecipeError, match=r"the number of a class.* found 1\.5"):
        open_data(tiny_recipe(tables, {"tasks": [STARS], "extra_evaluations": []}), tmp_path / "cache")


def test_a_class_task_is_trained_measured_and_reported(tiny_recipe, tables, tmp_path):
    shown = tables["impressions"]
    shown["grade"] = shown["click"] + 2 * shown["long_view"]
    recipe = tiny_recipe(
        tables,
        {
            "tasks": [CLICK, STARS],
            "extra_evaluations": [{"score": "pstars_3", "label": "click"}],
            "training.epochs": 6,
            "training.select_on": ["pstars"],
        },
    )
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    measured = metrics["parts"]["test"]["outputs"]["pstars"]
    assert measured["kind"] == "class" and measured["log_loss"] < measured["share_log_loss"]
    assert metrics["parts"]["test"]["extra"][0]["auc"] > 0.5
    report = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"<th[^>]*>class</th>", report) and re.search(r"<td[^>]*>pstars</td>", report)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["selected_on"] == ["pstars"]


def test_a_recipe_writes_a_kind_with_options_as_a_section_and_one_without_as_its_name(tiny_recipe):
    recipe = tiny_recipe(None, {"tasks": [CLICK, STARS], "extra_evaluations": []})
    plain = recipe.model_dump(mode="json")["tasks"]
    assert [task["kind"] for task in plain] == ["probability", {"type": "class", "classes": CLASSES}]


def test_an_unknown_kind_is_refused_with_the_nearest_name(tiny_recipe):
    with pytest.raises(RecipeError, match=r"tasks\.0\.kind: 'valeu' is unknown; did you mean 'value'\?"):
        tiny_recipe(None, {"tasks": [CLICK | {"kind": "valeu"}], "extra_evaluations": []})


def test_the_position_tower_shifts_heads_of_one_logit_only():
    with pytest.raises(RecipeError, match=r"position\.head: 'pstars' is not a head of one logit"):
        small("mmoe", position="pstars", tasks=[CLICK, STARS])


def test_every_kind_has_its_own_names():
    for names in ([kind.model_fields["type"].default for kind in KINDS], [kind.reported_as for kind in KINDS]):
        assert len(set(names)) == len(KINDS)
