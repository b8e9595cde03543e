"""Tests labels that are numbers: in their unit or as logarithm, refused by name, trained with the squared error."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.data.cache import open_data
from models.recipe import RecipeError, parse_recipe
from models.recipe.sections.data import source_column
from models.train import train

WATCH = {"type": "independent", "name": "watch_time", "label": "log1p(watch_ms)", "kind": "value"}


@pytest.fixture
def watched(tables):
    rng = np.random.default_rng(0)
    tables["impressions"]["watch_ms"] = np.where(
        tables["impressions"].click > 0, rng.integers(1000, 90_000, len(tables["impressions"])), 0
    )
    return tables


def test_log1p_of_a_column_is_the_logarithm_of_one_plus_its_value(tiny_recipe, watched, tmp_path):
    data = open_data(tiny_recipe(watched, {"tasks": [WATCH], "extra_evaluations": []}), tmp_path / "cache")
    assert data.recipe.label_columns == ("log1p(watch_ms)",)
    times = watched["impressions"].set_index("time_ms").watch_ms
    expected = np.log1p(times[np.asarray(data.parts["train"].time)].to_numpy(np.float64))
    np.testing.assert_allclose(data.parts["train"].labels[:, 0], expected, rtol=1e-6)


def test_a_negative_number_has_no_such_logarithm_and_is_refused(tiny_recipe, watched, tmp_path):
    watched["impressions"].loc[5, "watch_ms"] = -3
    with pytest.raises(
        RecipeError, match=r"label 'log1p\(watch_ms\)' must be a finite number in every row of the split, found -3"
    ):
        open_data(tiny_recipe(watched, {"tasks": [WATCH], "extra_evaluations": []}), tmp_path / "cache")


def test_the_column_below_the_logarithm_is_a_label_and_no_feature(tiny_recipe, watched):
    raw = tiny_recipe(watched).model_dump(mode="json")
    raw["tasks"] = [WATCH]
    raw["extra_evaluations"] = []
    raw["features"]["context"].append({"name": "watch_ms", "type": "numeric"})
    with pytest.raises(RecipeError, match="watch_ms"):
        parse_recipe(raw, "the test")
    assert source_column("log1p(watch_ms)") == "watch_ms" and source_column("watch_ms") == "watch_ms"


def test_a_values_loss_is_the_mean_squared_error_over_its_space():
    model = small("youtube2019")
    batch = training_batch(model, 64, 4)
    with torch.no_grad():
        scores = model.ranker(batch)
        losses = model.ranker.losses(batch)
    error = (scores["watch_time"] - batch["label/log1p(watch_ms)"]).double() ** 2
    assert float(losses["watch_time"]) == pytest.approx(float(error.mean()), rel=1e-5)
    liked = batch["label/like"] > 0
    error = (scores["rating"] - batch["label/rating"]).double()[liked] ** 2
    assert float(losses["rating"]) == pytest.approx(float(error.mean()), rel=1e-5)


def test_a_run_reports_a_values_error_beside_the_probabilities_auc(tiny_recipe, watched, tmp_path):
    click = {"type": "independent", "name": "pctr", "label": "click"}
    changes = {
        "tasks": [click, WATCH],
        "extra_evaluations": [],
        "model.architecture": "youtube2019",
        "training.epochs": 1,
    }
    metrics = train(
        tiny_recipe(watched, changes), tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0
    )
    measured = metrics["parts"]["test"]["outputs"]
    assert measured["watch_time"]["label"] == "log1p(watch_ms)" and measured["watch_time"]["rmse"] > 0
    assert "auc" in measured["pctr"] and metrics["selected_on"] == ["gauc(pctr)"]
