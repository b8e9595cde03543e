"""Tests the references for a run's figures: baselines, coverage and drift of features, ablation, sampled parts."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from features.statistics import psi
from models import train as training
from models.data.cache import labels_of, open_data
from models.metrics.ranking import auc
from models.network.build import build_model
from models.training.diagnostics.ablation import ablation
from models.training.diagnostics.baselines import baselines
from models.training.diagnostics.columns import LinearInputs, TreeInputs, feature_columns
from models.training.diagnostics.features import feature_health, of_ids, of_numbers
from models.training.diagnostics.sampling import sampled
from models.training.diagnostics.warnings import feature_warnings
from models.training.evaluation import scores_of
from models.training.run import open_run

TEST_START_MS = 1_651_766_400_000


@pytest.fixture
def opened(tiny_recipe, tables, tmp_path):
    """Data whose test part has shifted battery values, no tab values, and new cities in half of the rows."""
    impressions = tables["impressions"]
    late = impressions.time_ms >= TEST_START_MS
    impressions["battery"] = impressions.battery.where(~late, impressions.battery + 3)
    impressions["tab"] = None
    recipe = tiny_recipe(tables, {"position": {"column": "place", "head": "pctr"}})
    data = open_data(recipe, tmp_path / "cache")
    torch.manual_seed(0)
    return data, build_model(recipe, data.encoding, data.cross_values).eval()


def test_coverage_and_drift_tell_what_has_changed(opened, tables):
    data, _ = opened
    result = {(h["group"], h["feature"]): h for h in feature_health(data, 1)}
    assert set(result) == {
        ("user", "user_id"),
        ("user", "city"),
        ("user", "fans"),
        ("item", "item_id"),
        ("item", "tags"),
        ("item", "length"),
        ("context", "tab"),
        ("context", "battery"),
        ("behaviours", "length"),
    }
    assert result["context", "tab"]["coverage"] == {"train": 0.0, "validation": 0.0, "test": 0.0}
    battery = result["context", "battery"]
    assert battery["psi"]["test"] > 2 and battery["psi"]["validation"] < 0.2
    assert battery["coverage"]["test"] == 1.0 and battery["known"] is None
    part = data.parts["test"]
    fans = data.user_numerics[part.user][:, 0]
    assert result["user", "fans"]["coverage"]["test"] == pytest.approx(1 - np.isnan(fans).mean())
    assert 0 < result["user", "user_id"]["known"]["test"] <= 1
    assert result["behaviours", "length"]["coverage"]["test"] == pytest.approx((part.end > part.start).mean())


def test_a_warning_names_vectors_of_large_numbers(tiny_recipe, tables, tmp_path):
    tables["users"]["large"] = [None if i % 4 == 0 else [300.0, -400.0] for i in range(len(tables["users"]))]
    tables["users"]["small"] = [[0.6, 0.8]] * len(tables["users"])
    tables["users"]["none"] = None
    vectors = [{"name": name, "type": "vector", "width": 2} for name in ("large", "small", "none")]
    recipe = tiny_recipe(tables)
    own = recipe.features.model_dump(mode="json")["user"]
    data = open_data(tiny_recipe(tables, {"features.user": [*own, *vectors]}), tmp_path / "cache")
    health = feature_health(data, 1)
    norms = {each["feature"]: each["norm"] for each in health if "norm" in each}
    assert norms == {"large": 500, "small": pytest.approx(1), "none": None}
    (warning,) = [line for line in feature_warnings(health) if line.startswith("vectors")]
    assert warning.startswith("vectors whose median length in train is above 100: user.large 500; ")


def test_the_drift_of_numbers_is_the_index_over_the_deciles_of_train():
    rng = np.random.default_rng(0)
    parts = {"train": rng.normal(size=5000), "validation": rng.normal(size=5000), "test": rng.normal(1, 1, 5000)}
    result = of_numbers(parts)["psi"]
    assert result["test"] == pytest.approx(psi(parts["train"], parts["test"]), abs=0.01)
    assert result["validation"] < 0.01


def test_ids_that_come_and_ids_that_go_are_drift():
    rng = np.random.default_rng(0)
    train = rng.integers(2, 10, (4000, 1))
    result = of_ids({"train": train, "validation": train[::2], "test": np.where(train < 6, 1, train)}, unknown=1)
    assert result["psi"]["validation"] < 0.01 < 1 < result["psi"]["test"]
    assert result["known"] == {"train": 1.0, "validation": 1.0, "test": pytest.approx((train >= 6).mean())}
    empty = of_ids({"train": train * 0, "validation": train * 0, "test": train}, unknown=1)
    assert empty["coverage"] == {"train": 0.0, "validation": 0.0, "test": 1.0} and empty["psi"]["test"] > 1


def test_the_same_seed_draws_the_same_impressions_in_order(opened):
    data, _ = opened
    few = sampled(data, "train", 50, 3)
    assert len(few.parts["train"]) == 50 and len(data.parts["train"]) > 50
    times = data.parts["train"].time
    places = [int(np.flatnonzero(times == t)[0]) for t in few.parts["train"].time]
    assert places == sorted(places)
    np.testing.assert_array_equal(few.parts["train"].labels, sampled(data, "train", 50, 3).parts["train"].labels)
    assert not np.array_equal(few.parts["train"].time, sampled(data, "train", 50, 4).parts["train"].time)


def test_baselines_stand_beside_every_output_with_their_list_metrics(opened):
    data, model = opened
    result = baselines(model, data, 1)
    names = [m["name"] for m in result["models"]]
    plain = ["logistic regression", "boosted trees"]
    assert names == ["item popularity", *plain, *(f"{name} without user columns" for name in plain), "shown order"]
    by_name = {m["name"]: m["outputs"] for m in result["models"]}
    for name, outputs in by_name.items():
        assert set(outputs) == {o.name for o in model.outputs}
        assert all(0 <= m["auc"] <= 1 and "ndcg@10" in m and "mrr" in m for m in outputs.values()), name
    # Popularity, computed by hand.
    train = data.parts["train"]
    test = data.parts["test"]
    click = labels_of(data, "train", ("click",))
    rates = [(click[train.item == i].sum() + 10 * click.mean()) / ((train.item == i).sum() + 10) for i in test.item]
    expected = auc(labels_of(data, "test", ("click",)), np.array(rates))
    assert by_name["item popularity"]["pctr"]["auc"] == pytest.approx(expected, abs=1e-6)
    assert by_name["item popularity"]["pcvr"]["impressions"] == int(labels_of(data, "test", ("click",)).sum())
    without_user = feature_columns(data, "train", np.arange(len(train)), ("item", "context"))
    assert {name.partition(".")[0] for name in without_user.ids} == {"item", "context"}
    assert by_name["boosted trees without user columns"] != by_name["boosted trees"]
    place = auc(labels_of(data, "test", ("click",)), -test.position.astype(float))
    assert by_name["shown order"]["pctr"]["auc"] == pytest.approx(place)
    # The gain is that of the network, with an interval from the same users for both.
    own = auc(labels_of(data, "test", ("click",)), scores_of(model, data, "test")["pctr"])
    gain = by_name["item popularity"]["pctr"]["gain"]["auc"]
    assert gain["value"] == pytest.approx(own - by_name["item popularity"]["pctr"]["auc"], abs=1e-6)
    assert gain["low"] <= gain["value"] <= gain["high"]


def test_logistic_regression_reads_the_recipes_own_columns(opened):
    data, model = opened
    train = feature_columns(data, "train", np.arange(len(data.parts["train"])))
    inputs = LinearInputs(train)
    rows = inputs.matrix(train).toarray()
    users = len(np.unique(data.parts["train"].user))
    assert rows[:, : train.numbers.shape[1]].mean(0) == pytest.approx(0, abs=1e-9)
    assert (rows != 0).any(1).all() and rows.shape[1] > users
    fitted = LogisticRegression(max_iter=200).fit(rows, labels_of(data, "train", ("click",)))
    test = inputs.matrix(feature_columns(data, "test", np.arange(len(data.parts["test"])))).toarray()
    expected = auc(labels_of(data, "test", ("click",)), fitted.predict_proba(test)[:, 1])
    measured = {m["name"]: m for m in baselines(model, data, 1)["models"]}["logistic regression"]
    assert measured["outputs"]["pctr"]["auc"] == pytest.approx(expected, abs=0.005)


def test_trees_get_codes_of_frequent_ids_and_gaps_where_a_value_is_missing(opened):
    data, _ = opened
    columns = feature_columns(data, "test", np.arange(len(data.parts["test"])))
    inputs = TreeInputs(feature_columns(data, "train", np.arange(len(data.parts["train"]))))
    matrix = inputs.matrix(columns)
    assert matrix.shape[1] == len(inputs.categorical)
    tab = list(columns.ids).index("context.tab")
    widths = [rows.shape[1] for rows in columns.ids.values()]
    place = columns.numbers.shape[1] + sum(widths[:tab])
    assert np.isnan(matrix[:, place]).all()
    assert np.nanmax(matrix[:, inputs.categorical]) <= 254


def test_a_value_has_baselines_too_and_a_label_of_one_class_says_why(tiny_recipe, tables, tmp_path):
    tables["impressions"]["watch"] = tables["impressions"]["item_id"] * 2.0
    tables["impressions"]["never"] = 0
    tasks = [
        {"type": "independent", "name": "watch", "label": "watch", "kind": "value"},
        {"type": "independent", "name": "pnever", "label": "never"},
    ]
    recipe = tiny_recipe(tables, {"tasks": tasks, "extra_evaluations": []})
    data = open_data(recipe, tmp_path / "cache")
    result = {m["name"]: m["outputs"] for m in baselines(build_model(recipe, data.encoding), data, 1)["models"]}
    assert result["item popularity"]["watch"]["rmse"] < 8, "18 is the deviation of the label"
    assert result["boosted trees"]["watch"]["rmse"] < 5
    assert result["logistic regression"]["pnever"]["why"] == "the training part has one class only"


def test_a_run_with_both_options_shows_them_in_its_report(tiny_recipe, tables, tmp_path):
    recipe = tiny_recipe(tables, {"training.epochs": 6, "training.learning_rate": 0.02})
    metrics = training.train(
        recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0, baselines=True, ablation=True
    )
    page = (tmp_path / "run" / "report.html").read_text()
    for word in ("Baselines", "boosted trees", "Groups of features", "Features by part", "training AUC"):
        assert word in page
    assert (
        metrics["parts"]["train"]["outputs"]["pctr"]["auc"] > metrics["parts"]["test"]["outputs"]["pctr"]["auc"] - 0.1
    )
    whole = metrics["ablation"]["whole"]["pctr"]["auc"]
    without = {group: figures["pctr"]["auc"] for group, figures in metrics["ablation"]["without"].items()}
    assert whole - without["item"] > 0.05 > abs(whole - without["context"]), "clicks depend on the item's tags"


def test_ablation_measures_the_whole_as_the_run_does(tiny_recipe, tables, tmp_path):
    recipe = tiny_recipe(tables)
    metrics = training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    result = ablation(open_run(tmp_path / "run").ranker, open_data(recipe, tmp_path / "cache"), 1)
    of_test = metrics["parts"]["test"]["outputs"]["pctr"]
    assert result["whole"]["pctr"]["auc"] == pytest.approx(of_test["auc"])
    assert set(result["without"]) == {"user", "item", "context", "behaviours"}
    assert metrics["baselines"] is None and metrics["ablation"] is None
