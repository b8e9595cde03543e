"""Tests columns of weights: read row by row, refused by column and row, and what a run learns from them."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from models.data.cache import open_data
from models.network.build import build_model
from models.recipe import RecipeError
from models.train import train
from models.training.checkpoint import WEIGHTS_FILE, load_whole
from models.training.statistics import fit_weights

CLICK = {"type": "independent", "name": "pctr", "label": "click"}


@pytest.fixture
def weighed(tables):
    rng = np.random.default_rng(0)
    n = len(tables["impressions"])
    tables["impressions"]["w"] = rng.gamma(1.0, size=n)
    tables["impressions"]["even"] = 3.5
    tables["impressions"]["of_clicks"] = rng.integers(1, 5, n) * tables["impressions"].click
    return tables


def test_every_impression_has_the_weight_of_its_row(tiny_recipe, weighed, tmp_path):
    recipe = tiny_recipe(weighed, {"data.weight": "w", "data.task_weights": {"plong_view": "even"}})
    data = open_data(recipe, tmp_path / "cache")
    assert recipe.data.weight_columns == ("w", "even")
    by_time = weighed["impressions"].set_index("time_ms")
    for part in data.parts.values():
        expected = by_time.loc[np.asarray(part.time), ["w", "even"]].to_numpy(np.float32)
        np.testing.assert_array_equal(part.weights, expected)


def test_another_column_is_another_data_set_and_none_is_that_of_before(tiny_recipe, weighed, tmp_path):
    names = [None, "w", "even"]
    recipes = [tiny_recipe(weighed, {"data.weight": name} if name else {}) for name in names]
    opened = [open_data(recipe, tmp_path / "cache") for recipe in recipes]
    assert len({data.described["hash"] for data in opened}) == 3
    assert opened[0].parts["train"].weights is None and "weight" not in recipes[0].model_dump()["data"]
    assert (opened[2].parts["train"].weights == 3.5).all() and (opened[1].parts["train"].weights != 3.5).all()


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf, 1e39])
def test_a_weight_that_is_none_is_refused_by_column_and_row(tiny_recipe, weighed, tmp_path, value):
    weighed["impressions"].loc[700, "w"] = value
    pattern = f"weight 'w' must be a finite number of at least 0 in every row of the split, found {value!r} (row 701)"
    with pytest.raises(RecipeError, match=re.escape(pattern)):
        open_data(tiny_recipe(weighed, {"data.weight": "w"}), tmp_path / "cache")


TIMES = {
    "datetime64[ms]": "timestamp[ms]",
    "datetime64[ns]": "timestamp[ns]",
    "datetime64[us, UTC]": "timestamp[us, tz=UTC]",
}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize(
    ("role", "changes"),
    [
        ("weight", {"data.weight": "shown"}),
        ("weight", {"data.task_weights": {"pctr": "shown"}}),
        ("label", {"tasks": [CLICK | {"kind": "value", "label": "shown"}], "extra_evaluations": []}),
        ("label", {"tasks": [CLICK | {"kind": "value", "label": "log1p(shown)"}], "extra_evaluations": []}),
        ("position", {"position": {"column": "shown", "head": "pctr"}}),
    ],
)
def test_a_time_is_no_weight_label_or_position(tiny_recipe, weighed, tmp_path, kind, role, changes):
    """A timestamp is read as milliseconds, so a weight of it would count later impressions more."""
    shown = pd.to_datetime(weighed["impressions"].time_ms, unit="ms")
    weighed["impressions"]["shown"] = shown.dt.tz_localize("UTC").astype(kind) if "UTC" in kind else shown.astype(kind)
    pattern = f"impressions.parquet (impressions): {role} 'shown' must be a number, not a time; the column has the type"
    with pytest.raises(RecipeError, match=re.escape(f"{pattern} {TIMES[kind]}")):
        open_data(tiny_recipe(weighed, changes), tmp_path / "cache")


def test_a_time_is_no_weight_either_if_an_earlier_release_has_encoded_it(tiny_recipe, weighed, tmp_path, monkeypatch):
    weighed["impressions"]["shown"] = pd.to_datetime(weighed["impressions"].time_ms, unit="ms")
    recipe = tiny_recipe(weighed, {"data.weight": "shown"})
    with monkeypatch.context() as earlier:
        earlier.setattr("models.data.cache.refuse_times", lambda *_: None)
        assert open_data(recipe, tmp_path / "cache").parts["train"].weights.min() > 1e11
    with pytest.raises(RecipeError, match="weight 'shown' must be a number, not a time"):
        open_data(recipe, tmp_path / "cache")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            np.array([1, 2, 3], "timedelta64[ns]"),
            "column 'odd' has the type duration[ns], but must be text, integer, number",
        ),
        ([True, False, True], "column odd: a numeric value is a number or null, not bool; it holds True"),
        (["1", "2", "3"], "column odd: a numeric value is a number or null, not str; it holds '1'"),
    ],
)
def test_a_duration_a_truth_value_and_a_text_are_no_weights(tiny_recipe, weighed, tmp_path, values, problem):
    n = len(weighed["impressions"])
    weighed["impressions"]["odd"] = pd.Series(values).take(np.arange(n) % 3).to_numpy()
    with pytest.raises(RecipeError, match=re.escape(problem)):
        open_data(tiny_recipe(weighed, {"data.weight": "odd"}), tmp_path / "cache")


def test_a_column_that_is_missing_is_refused_by_its_key(tiny_recipe, weighed, tmp_path):
    with pytest.raises(RecipeError, match=r"no column 'weigth'.*data\.weight"):
        open_data(tiny_recipe(weighed, {"data.weight": "weigth"}), tmp_path / "cache")


@pytest.mark.parametrize(
    ("column", "tasks", "problem"),
    [
        ("none", [CLICK], "'none' is 0 in every impression of the training part, so 'pctr' learns nothing"),
        (
            "of_others",
            [CLICK | {"name": "plong", "label": "long_view", "space": "click"}],
            "'of_others' is 0 in every impression of the training part where click is 1, so 'plong' learns nothing",
        ),
    ],
)
def test_weights_that_are_all_0_are_refused(tiny_recipe, weighed, tmp_path, column, tasks, problem):
    weighed["impressions"]["none"] = 0
    weighed["impressions"]["of_others"] = 1 - weighed["impressions"].click
    recipe = tiny_recipe(weighed, {"data.weight": column, "tasks": tasks, "extra_evaluations": []})
    with pytest.raises(RecipeError, match=problem):
        train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)


SPACED = CLICK | {"name": "plong", "label": "long_view", "space": "click"}


@pytest.mark.parametrize(
    ("task", "key", "weight", "problem"),
    [
        (CLICK, "weight", lambda rows: rows.click * 7.5, "where click is 0, so 'pctr' would learn 1 for all"),
        (CLICK, "weight", lambda rows: 1 - rows.click, "where click is 1, so 'pctr' would learn 0 for all"),
        (
            SPACED,
            "task_weights",
            lambda rows: rows.long_view,
            "where click is 1 and long_view is 0, so 'plong' would learn 1 for all",
        ),
    ],
)
def test_weights_that_leave_one_label_are_refused(tiny_recipe, weighed, tmp_path, task, key, weight, problem):
    """A watched time as the weight of clicks is 0 without a click, so the probability would become 1 everywhere."""
    weighed["impressions"]["of_one"] = weight(weighed["impressions"])
    named = "of_one" if key == "weight" else {task["name"]: "of_one"}
    recipe = tiny_recipe(weighed, {f"data.{key}": named, "tasks": [task], "extra_evaluations": []})
    data = open_data(recipe, tmp_path / "cache")
    with pytest.raises(RecipeError, match=f"data.{key}: 'of_one' is 0 in every impression .* {problem}"):
        fit_weights(build_model(recipe, data.encoding), data)
    # With some weight for them it is trained.
    weighed["impressions"]["of_one"] += 0.1
    recipe = tiny_recipe(weighed, {f"data.{key}": named, "tasks": [task], "extra_evaluations": []})
    data = open_data(recipe, tmp_path / "cache")
    fit_weights(build_model(recipe, data.encoding), data)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data.task_weights": {"pcrt": "w"}}, "data.task_weights: 'pcrt' is not an output; did you mean"),
        ({"data.task_weights": {"pcvr": "w"}}, "data.task_weights: 'pcvr' has no loss of its own"),
        (
            {"data.weight": "w", "model.architecture": "dcmt", "tasks": [CLICK | {"type": "dcmt"}]},
            "data.weight: the loss of 'pcvr' divides by the sums of its own weights",
        ),
    ],
)
def test_weights_that_no_loss_can_take_are_refused(tiny_recipe, weighed, tmp_path, changes, problem):
    if "tasks" in changes:
        changes = changes | {"tasks": [{"type": "dcmt", "click": "click", "conversion": "like"}]}
    recipe = tiny_recipe(weighed, changes | {"extra_evaluations": []})
    data = open_data(recipe, tmp_path / "cache")
    with pytest.raises(RecipeError, match=problem):
        build_model(recipe, data.encoding)


def test_the_mean_is_that_of_the_training_impressions_of_the_space(tiny_recipe, weighed, tmp_path):
    tasks = [CLICK, CLICK | {"name": "plong", "label": "long_view", "space": "click"}]
    recipe = tiny_recipe(weighed, {"data.weight": "w", "tasks": tasks, "extra_evaluations": []})
    data = open_data(recipe, tmp_path / "cache")
    model = build_model(recipe, data.encoding)
    fit_weights(model, data)
    w = weighed["impressions"].set_index("time_ms").loc[np.asarray(data.parts["train"].time)]
    assert model.objective.weights.means == pytest.approx(
        {"pctr": w.w.mean(), "plong": w.w[w.click > 0].mean()}, rel=1e-6
    )


def test_equal_weights_train_the_bits_of_none(tiny_recipe, weighed, tmp_path):
    trained = []
    for name, changes in (("without", {}), ("with", {"data.weight": "even"})):
        recipe = tiny_recipe(weighed, changes | {"training.epochs": 1})
        train(recipe, tmp_path / name, cache=tmp_path / "cache", quiet=True, reading_steps=0)
        trained.append(load_whole(tmp_path / name / WEIGHTS_FILE)["weights"])
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name]), name
