"""Tests the selection of the best weights: by which metric of which output; a score that is not finite never wins."""

import json

import numpy as np
import pytest

from models import train as training
from models.data.cache import labels_of, open_data
from models.metrics.ranking import auc, list_metrics
from models.recipe import RecipeError
from models.training.evaluation import groups_of, scores_of
from models.training.run import open_run
from models.training.selection import selection_score
from models.training.session import Progress


def run(recipe, tmp_path, name="run"):
    return training.train(recipe, tmp_path / name, cache=tmp_path / "cache", quiet=True, reading_steps=0)


def measured(**figures):
    return {"impressions": 9, "auc": 0.7, "gauc": {"value": 0.6}, "ndcg@10": 0.5, "mrr": 0.4, "log_loss": 0.3} | figures


@pytest.mark.parametrize(
    ("names", "score"),
    [
        (["a"], 0.7),
        (["auc(a)"], 0.7),
        (["gauc(a)", "ndcg@10(b)"], 0.55),
        (["mrr(a)", "b"], 0.55),
        (["value"], -2.0),
    ],
)
def test_an_entry_counts_by_the_metric_that_it_names(names, score):
    outputs = {"a": measured(), "b": measured(), "value": {"impressions": 9, "rmse": 2.0}}
    assert selection_score(outputs, names) == pytest.approx(score)


def test_without_an_order_to_measure_the_log_loss_decides_for_all():
    outputs = {"a": measured(), "b": measured(auc=None, gauc={"value": None}, log_loss=0.5)}
    assert selection_score(outputs, ["a", "gauc(b)"]) == pytest.approx(-0.4)


def test_an_output_without_impressions_has_no_say_and_one_that_is_not_finite_spoils_the_score():
    empty = {"impressions": 0, "rmse": None, "mae": None}
    outputs = {"a": measured(), "empty": empty, "bad": {"impressions": 4, "rmse": None}}
    assert selection_score(outputs, ["a", "empty"]) == 0.7
    assert np.isnan(selection_score(outputs, ["empty"]))
    assert np.isnan(selection_score(outputs, ["a", "bad"]))


def test_a_score_that_is_not_finite_is_never_the_best():
    progress = Progress()
    scores = [None, 0.2, None, 0.1, 0.3]
    improved = [progress.evaluated({"score": score}) for score in scores]
    assert improved == [False, True, False, False, True]
    assert progress.best_score == 0.3


def test_a_selected_task_without_impressions_on_validation_is_refused_and_writes_no_nan(tiny_recipe, tables, tmp_path):
    impressions = tables["impressions"]
    impressions["watch_s"] = np.where(impressions.click > 0, 10.0, 0.0)
    day5 = (impressions.time_ms >= 1_651_680_000_000) & (impressions.time_ms < 1_651_766_400_000)
    impressions.loc[day5, ["click", "like"]] = 0
    tasks = [{"type": "independent", "name": "watch", "label": "watch_s", "space": "click", "kind": "value"}]
    recipe = tiny_recipe(tables, {"tasks": tasks, "extra_evaluations": []})
    with pytest.raises((RecipeError, training.NonFiniteLossError), match="watch|click"):
        run(recipe, tmp_path)
    for path in (tmp_path / "run").glob("*.json"):
        assert "NaN" not in path.read_text()


def test_an_unselected_task_without_impressions_on_validation_is_null_with_a_warning(tiny_recipe, tables, tmp_path):
    impressions = tables["impressions"]
    impressions["watch_s"] = np.where(impressions.click > 0, 10.0, 0.0)
    late = impressions.time_ms >= 1_651_766_400_000
    impressions.loc[late, ["click", "like"]] = 0
    tasks = [
        {"type": "independent", "name": "plong_view", "label": "long_view"},
        {"type": "independent", "name": "watch", "label": "watch_s", "space": "click", "kind": "value"},
    ]
    recipe = tiny_recipe(tables, {"tasks": tasks, "extra_evaluations": []})
    metrics = run(recipe, tmp_path)
    assert metrics["parts"]["test"]["outputs"]["watch"]["rmse"] is None
    assert any(
        "watch: the test part has no figures for it: no impression of its space" in w for w in metrics["warnings"]
    )
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["selected_on"] == ["gauc(plong_view)"]
    assert "no impression of its space" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["plong_view", "watch"], "measures of different kinds have no common mean"),
        (["gauc(watch)"], "'watch' has no gauc; it is judged by its RMSE"),
        (["gauc(plong_vie)"], "'plong_vie' is not an output"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(tiny_recipe, tables, tmp_path, chosen, message):
    tables["impressions"]["watch_s"] = 1.0
    tasks = [
        {"type": "independent", "name": "plong_view", "label": "long_view"},
        {"type": "independent", "name": "watch", "label": "watch_s", "kind": "value"},
    ]
    changes = {"tasks": tasks, "extra_evaluations": [], "training.select_on": chosen}
    with pytest.raises(RecipeError, match=message):
        run(tiny_recipe(tables, changes), tmp_path)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("chosen", ["ndcg(pctr)", "ndcg@0(pctr)", "recall(pctr)", "gauc pctr"])
def test_an_unknown_metric_is_refused_with_the_recipe(tiny_recipe, chosen):
    with pytest.raises(RecipeError, match=r"training\.select_on"):
        tiny_recipe(None, {"training.select_on": [chosen]})


def with_requests(tables):
    """Impressions of a user within half a day belong to one request; the ids are text with a leading zero."""
    impressions = tables["impressions"]
    halfday = impressions.time_ms // 43_200_000
    impressions["search"] = [f"0{user}-{time}" for user, time in zip(impressions.user_id, halfday, strict=True)]
    return tables


def test_with_a_request_id_every_metric_of_order_is_of_requests(tiny_recipe, tables, tmp_path):
    chosen = ["gauc(pctr)", "ndcg@3(pctcvr)", "mrr(plong_view)"]
    changes = {"data.request_id": "search", "training.select_on": chosen}
    recipe = tiny_recipe(with_requests(tables), changes)
    metrics = run(recipe, tmp_path)
    assert metrics["parts"]["test"]["grouped_by"] == "request" and metrics["selected_on"] == chosen
    data = open_data(recipe, tmp_path / "cache")
    ranker = open_run(tmp_path / "run").ranker
    parts = {}
    for part in ("validation", "test"):
        scores = scores_of(ranker, data, part)
        request = groups_of(data, part)
        expected = {}
        for name, label in {"pctr": ("click",), "pctcvr": ("click", "like"), "plong_view": ("long_view",)}.items():
            expected[name] = list_metrics(
                labels_of(data, part, label), scores[name].astype(float), request, (3,)
            ).means()
            output = metrics["parts"][part]["outputs"][name]
            assert output["ndcg@3"] == pytest.approx(expected[name]["ndcg@3"])
            assert output["gauc"]["value"] == pytest.approx(expected[name]["gauc"])
            assert output["auc"] == pytest.approx(auc(labels_of(data, part, label), scores[name]))
        parts[part] = expected
    of_validation = parts["validation"]
    best = [of_validation["pctr"]["gauc"], of_validation["pctcvr"]["ndcg@3"], of_validation["plong_view"]["mrr"]]
    assert metrics["best"]["score"] == pytest.approx(np.mean(best))
    times = tables["impressions"].time_ms
    test = tables["impressions"][(times >= 1_651_766_400_000) & (times < 1_652_025_600_000)]
    assert len(np.unique(groups_of(data, "test"))) == test.search.nunique()
    report = (tmp_path / "run" / "report.html").read_text()
    assert "requests / skipped" in report and "means over requests" in report


def test_an_impression_without_a_request_is_refused(tiny_recipe, tables, tmp_path):
    with_requests(tables)["impressions"].loc[700:, "search"] = None
    with pytest.raises(RecipeError, match=r"column 'search' \(data\.request_id\) is empty in some rows"):
        open_data(tiny_recipe(tables, {"data.request_id": "search"}), tmp_path / "cache")


def test_a_recipe_without_a_request_id_keeps_its_cache(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    assert "request_id" in recipe.data.model_dump()
    first = open_data(recipe, tmp_path / "cache").described["hash"]
    assert open_data(recipe, tmp_path / "cache").parts["test"].request is None
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [first]


def test_without_entries_the_order_inside_lists_selects(tiny_recipe, tables, tmp_path):
    assert run(tiny_recipe(tables), tmp_path)["selected_on"] == ["gauc(pctr)", "gauc(pctcvr)", "gauc(plong_view)"]


def test_where_no_list_has_an_order_auc_selects(tiny_recipe, tables, tmp_path):
    tables["impressions"]["search"] = np.arange(len(tables["impressions"]))
    metrics = run(tiny_recipe(tables, {"data.request_id": "search"}), tmp_path)
    assert metrics["selected_on"] == ["pctr", "pctcvr", "plong_view"]
    assert metrics["best"]["score"] > 0.5


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"pctrr": {"type": "pairwise"}}, "'pctrr' is not an output; did you mean 'pctr'"),
        ({"pcvr": {"type": "pairwise"}}, "'pcvr' has no loss of its own; those with one: pctr, pctcvr, watch"),
        ({"watch": {"type": "softmax"}}, "'watch' is not the probability of a label of 0 or 1"),
        ({"pctr": {"type": "pairwis"}}, "'pairwis' is unknown; did you mean 'pairwise'"),
        ({"pctr": {"type": "jrc", "weigth": 2}}, "weight"),
        ({"pctr": {"type": "jrc", "weight": 0}}, "greater than 0"),
    ],
)
def test_a_list_loss_that_cannot_be_is_refused(tiny_recipe, tables, tmp_path, chosen, message):
    tables["impressions"]["watch_s"] = 1.0
    tasks = [
        {"type": "esmm", "click": "click", "conversion": "like"},
        {"type": "independent", "name": "watch", "label": "watch_s", "kind": "value"},
    ]
    with pytest.raises(RecipeError, match=message):
        run(tiny_recipe(tables, {"tasks": tasks, "training.list_losses": chosen}), tmp_path)


def test_a_list_loss_without_a_list_to_learn_from_is_refused(tiny_recipe, tables, tmp_path):
    tables["impressions"]["search"] = np.arange(len(tables["impressions"]))
    changes = {"data.request_id": "search", "training.list_losses": {"pctr": {"type": "softmax"}}}
    message = "'pctr': no request of the training part holds impressions with and without the label"
    with pytest.raises(RecipeError, match=message):
        run(tiny_recipe(tables, changes), tmp_path)
