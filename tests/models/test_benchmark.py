"""Tests the benchmark: no run is repeated or lost, and every recipe is listed with the reference values of its data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from funnelrank.main import main
from models.benchmark import ABOVE_IS_KEPT
from models.data.cache import labels_of, open_data
from models.metrics.ranking import auc
from models.recipe import load_recipe
from models.reports.results import Group, Mark, group_of, group_tables, listed_groups
from models.training.diagnostics import tuned
from models.training.diagnostics.columns import LinearInputs, feature_columns

RECIPES = sorted((Path(__file__).parents[2] / "models" / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe_file(tiny_recipe, tmp_path):
    def write(name, **changes):
        recipe = tiny_recipe(changes={"training.epochs": 1, "training.evaluations_per_epoch": 1} | changes)
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True) | {"name": name}, sort_keys=False)
        )
        return path

    return write


@pytest.fixture
def bench(tmp_path):
    def run(*paths, seeds=1, out=tmp_path / "results", more=()):
        words = [
            *map(str, paths),
            *more,
            "--seeds",
            str(seeds),
            "--runs",
            str(tmp_path / "runs"),
            "--cache",
            str(tmp_path / "cache"),
            "--out",
            str(out),
        ]
        return main(["benchmark", *words])

    return run


def trained_at(tmp_path, run):
    return (tmp_path / "runs" / run / "metrics.json").stat().st_mtime_ns


def test_a_finished_run_counts_until_its_recipe_or_its_tables_change(recipe_file, bench, tmp_path):
    path = recipe_file("own")
    assert bench(path) == 0
    first = trained_at(tmp_path, "own-1")
    path.write_text(path.read_text().replace("made in the test", "said otherwise"))
    assert bench(path) == 0
    assert trained_at(tmp_path, "own-1") == first
    impressions = Path(load_recipe(path).data.dir) / "impressions.parquet"
    pd.read_parquet(impressions).iloc[1:].to_parquet(impressions)
    assert bench(path) == 0
    second = trained_at(tmp_path, "own-1")
    assert second > first
    path.write_text(path.read_text().replace("batch_size: 64", "batch_size: 32"))
    assert bench(path) == 0
    assert trained_at(tmp_path, "own-1") > second


def test_a_recipe_that_fails_is_told_with_its_line_and_loses_no_other(recipe_file, bench, tmp_path, capsys):
    bad = recipe_file("bad", **{"training.select_on": ["pctx"]})
    good = recipe_file("good")
    assert bench(bad, good) == 1
    line = next(i for i, text in enumerate(bad.read_text().splitlines(), 1) if "pctx" in text)
    assert (
        f"bad.yaml:{line}: training.select_on: 'pctx' is not an output; did you mean 'pctr'?" in capsys.readouterr().err
    )
    (group,) = json.loads((tmp_path / "results.json").read_text())
    assert [row["recipe"] for row in group["rows"]] == ["good"]


def test_a_recipe_without_data_is_told_and_left_out(recipe_file, bench, tmp_path, capsys):
    away = recipe_file("away")
    here = recipe_file("here")
    away.write_text(away.read_text().replace(f"dir: {load_recipe(away).data.dir}", f"dir: {tmp_path / 'nowhere'}"))
    assert bench(away, here) == 0
    assert f"left out: {away}: " in capsys.readouterr().err
    assert "| here |" in (tmp_path / "results.md").read_text()


def test_a_table_gives_mean_and_deviation_over_the_seeds_and_the_text_above_it_stays(recipe_file, bench, tmp_path):
    page = tmp_path / "results.md"
    page.write_text(f"# Words of ours\n{ABOVE_IS_KEPT}\nan older table")
    assert bench(recipe_file("own"), seeds=2) == 0
    text = page.read_text()
    assert text.startswith("# Words of ours\n") and "an older table" not in text
    (group,) = json.loads((tmp_path / "results.json").read_text())
    aucs = [
        json.loads((tmp_path / "runs" / f"own-{s}" / "metrics.json").read_text())["parts"]["test"]["outputs"]["pctr"][
            "auc"
        ]
        for s in (1, 2)
    ]
    row = group["rows"][0]
    assert row["seeds"] == 2
    assert row["auc"]["click"] == pytest.approx({"mean": sum(aucs) / 2, "deviation": abs(aucs[0] - aucs[1]) / 2**0.5})
    assert f"{sum(aucs) / 2:.4f} ± " in text


def test_tuned_plain_models_stand_beside_the_recipes(recipe_file, bench, tmp_path, monkeypatch):
    """Once per set of columns, with the settings that are best on validation, whatever their result on the
    test part.
    """
    monkeypatch.setattr(tuned, "TRIES", 2)
    monkeypatch.setattr(tuned, "TREE_SETTINGS", {"max_iter": (2, 5)})
    one = recipe_file("one")
    assert bench(one, recipe_file("two", **{"model.dropout": 0.1}), more=("--baselines",)) == 0
    (group,) = json.loads((tmp_path / "results.json").read_text())
    named = {row["recipe"]: row for row in group["rows"]}
    linear = "logistic regression on the columns of one"
    assert list(named) == ["one", "two", linear, "boosted trees on the columns of one"]
    assert named[linear]["auc"].keys() == named["one"]["auc"].keys() - {"like"}, "every output has a figure"
    assert named[linear]["auc"]["click"]["mean"] > 0.6
    # The strength of the penalty, computed by hand.
    data = open_data(load_recipe(one), tmp_path / "cache")
    columns = {part: feature_columns(data, part, np.arange(len(data.parts[part]))) for part in ("train", "validation")}
    inputs = LinearInputs(columns["train"])
    aucs = {}
    for settings in tuned.linear_settings():
        fitted = LogisticRegression(max_iter=300, **settings)
        fitted.fit(inputs.matrix(columns["train"]), labels_of(data, "train", ("click",)))
        p = fitted.predict_proba(inputs.matrix(columns["validation"]))[:, 1]
        aucs[settings["C"]] = auc(labels_of(data, "validation", ("click",)), np.log(p))
    chosen = json.loads(named[linear]["composition"]["settings"])["pctr"]["C"]
    assert chosen == max(aucs, key=aucs.__getitem__)
    # They are fitted once.
    file = tmp_path / "runs" / "one-plain-models.json"
    first = file.stat().st_mtime_ns
    assert bench(one, more=("--baselines",)) == 0
    assert file.stat().st_mtime_ns == first
    assert linear in (tmp_path / "results.md").read_text()


def test_two_recipes_of_one_name_are_refused(recipe_file, bench, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(recipe_file("own").read_text())
    assert bench(tmp_path / "own.yaml", other) == 1
    assert "'own' is also the name of" in capsys.readouterr().err


def test_the_recipes_stand_in_the_groups_that_have_marks():
    listed = listed_groups()
    named = {path.stem: group_of(load_recipe(path), listed).title for path in RECIPES}
    assert named["census-ple"] == "Census-Income, income above 50K and never married"
    assert named["census-college-ple"] == "Census-Income, college degree and never married"
    assert (
        named["kuairand-esmm"]
        == named["kuairand-single-task"]
        == named["kuairand-youtube2019"]
        == "KuaiRand-Pure, three tasks"
    )
    assert named["taobao-esm2"] == named["taobao-dupn"] == "Taobao UserBehavior, after a page view"
    assert named["kuairand-zhihu"] == "KuaiRand-Pure, eight tasks"
    assert all(set(mark.auc) <= set(group.columns) for group in listed for mark in group.marks)


def test_labels_that_no_group_has_become_a_group_of_their_own(tiny_recipe):
    group = group_of(tiny_recipe(), listed_groups())
    assert set(group.columns) == {"click", "like", "long_view"} and not group.marks


def test_a_marks_figures_stand_below_the_metrics_that_the_group_shows():
    mark = Mark(name="trees", auc={"click": 0.7}, gauc={"click": 0.6})
    group = Group(title="T", data="d", columns={"click": "click"}, metrics=("auc", "gauc"), marks=(mark,))
    score = {"output": "pctr", "label": "click"} | {m: {"mean": 0.5, "deviation": None} for m in ("auc", "gauc")}
    row = {
        "recipe": "own",
        "seeds": 1,
        "parameters": {"embedding": 1, "dense": 2},
        "seconds_per_epoch": 1.0,
        "data": {"folder": "d", "impressions": {"train": 1, "validation": 1, "test": 1}},
        "scores": [score],
    }
    lines = group_tables(group, [row]).splitlines()
    assert "| mark | click, AUC | click, GAUC |" in lines
    assert "| trees | 0.7000 | 0.6000 |" in lines
