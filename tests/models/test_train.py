"""Tests training: it keeps the best weights, selects on validation only, resumes bit for bit, and stops with
a reason.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from killed_writer import killed_while_it_writes

from funnelrank.main import main
from models import train as training
from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.metrics.ranking import auc
from models.network.build import build_model
from models.network.model import MultiTaskModel
from models.recipe import RecipeError
from models.training.evaluation import evaluate
from models.training.run import open_run


def run(recipe, tmp_path, name="run", **options):
    return training.train(
        recipe, tmp_path / name, cache=tmp_path / "cache", quiet=True, **({"reading_steps": 0} | options)
    )


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_learns_and_leaves_everything_that_export_needs(tiny_recipe, tmp_path):
    metrics = run(tiny_recipe(None, {"training.epochs": 4}), tmp_path, reading_steps=3)
    out = tmp_path / "run"
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.pt",
        "encoding.npz",
        "history.json",
        "kept_rows.npz",
        "metrics.json",
        "optimiser.pt",
        "recipe.yaml",
        "report.html",
    ]
    assert metrics["parts"]["test"]["outputs"]["pctr"]["auc"] > 0.6
    assert metrics["speed"]["reading"]["ratio"] > 0
    assert open_run(out).recipe.name == "tiny"


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny_recipe, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tiny_recipe(None, {"training.seed": seed}), tmp_path, name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def command(recipe_file, out, tmp_path, *more):
    options = ["--out", str(out), "--cache", str(tmp_path / "cache"), "--threads", "1", "--reading-steps", "0", *more]
    return [sys.executable, "-m", "models.train", str(recipe_file), *options]


def test_a_run_killed_and_resumed_ends_with_the_same_bits(tiny_recipe, tmp_path):
    changes = {
        "training.epochs": 6,
        "training.batch_size": 16,
        "training.evaluations_per_epoch": 4,
        "model.dropout": 0.2,
        "training.patience": 99,
    }
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(tiny_recipe(None, changes).model_dump(mode="json")))
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    subprocess.run(command(recipe_file, whole, tmp_path), check=True, capture_output=True)

    killed_while_it_writes(command(recipe_file, killed, tmp_path), killed / "resume.pt", times=2)
    assert (killed / "resume.pt").exists()
    assert not (killed / "metrics.json").exists()

    subprocess.run(command(recipe_file, killed, tmp_path, "--resume"), check=True, capture_output=True)
    assert same(weights(whole), weights(killed))
    histories = [json.loads((folder / "history.json").read_text()) for folder in (whole, killed)]
    assert histories[0] == histories[1]
    assert not (killed / "resume.pt").exists()


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(
    "others", [{"training.learning_rate": 0.5}, {"training.seed": 9}, {"training.ensemble": 3}], ids=str
)
def test_resuming_with_another_recipe_is_refused_and_changes_no_file(
    tiny_recipe, tmp_path, monkeypatch, members, others
):
    same = {"training.ensemble": members, "training.epochs": 1}
    monkeypatch.setattr(training, "summary", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_recipe(None, same), tmp_path)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(RecipeError, match="the run in .* was made with another recipe"):
        run(tiny_recipe(None, same | others), tmp_path, resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_resuming_with_other_data_is_refused_and_changes_no_file(tiny_recipe, tmp_path, monkeypatch):
    recipe = tiny_recipe()
    monkeypatch.setattr(training, "summary", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    opened = training.open_data

    def other_data(*arguments):
        data = opened(*arguments)
        data.described["hash"] = "of other data"
        return data

    monkeypatch.setattr(training, "open_data", other_data)
    with pytest.raises(RecipeError, match="the run in .* was made with another data"):
        run(recipe, tmp_path, resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


@pytest.mark.parametrize("members", [1, 2])
def test_resuming_a_finished_run_says_so_and_trains_nothing(tiny_recipe, tmp_path, capsys, members):
    recipe = tiny_recipe(None, {"training.ensemble": members, "training.epochs": 1})
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    run(recipe, tmp_path)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "run").iterdir()}
    options = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--resume"]
    assert main(["train", str(recipe_file), *options]) == 0
    printed = capsys.readouterr()
    assert "is a finished run; nothing was trained again" in printed.err
    assert "best weights of step" in printed.out
    assert main(["train", str(recipe_file), *options, "--seed", "9"]) != 0
    assert "was made with another recipe" in capsys.readouterr().err
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "run").iterdir()} == before


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_weights_kept_are_those_of_the_best_validation_score(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, {"training.epochs": 6, "training.learning_rate": 0.05, "training.averaging": 0.0})
    metrics = run(recipe, tmp_path)
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    scores = {e["step"]: e["score"] for e in history["evaluations"]}
    assert metrics["best"]["score"] == max(scores.values())
    assert scores[metrics["best"]["step"]] == max(scores.values())
    reopened = open_run(tmp_path / "run").ranker
    again = evaluate(reopened, open_data(recipe, tmp_path / "cache"), "validation")["outputs"]
    trained = [again[n]["gauc"]["value"] for n in ("pctr", "pctcvr", "plong_view")]
    assert np.mean(trained) == pytest.approx(metrics["best"]["score"], abs=1e-12)


def test_training_stops_early_when_validation_no_longer_gains(tiny_recipe, tmp_path):
    metrics = run(
        tiny_recipe(None, {"training.epochs": 30, "training.learning_rate": 0.1, "training.patience": 2}), tmp_path
    )
    assert metrics["stopped_early"]
    assert metrics["epochs"] < 30


def test_the_test_part_has_no_say_in_the_weights(tiny_recipe, tables, tmp_path):
    run(tiny_recipe(tables), tmp_path, "a")
    late = tables["impressions"].time_ms >= 1_651_766_400_000  # 6 May, +08:00
    tables["impressions"].loc[late, "click"] = 1 - tables["impressions"].loc[late, "click"]
    run(tiny_recipe(tables), tmp_path, "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_evaluate_equals_the_metric_of_the_scores(tiny_recipe, tmp_path):
    recipe = tiny_recipe()
    data = open_data(recipe, tmp_path / "cache")
    torch.manual_seed(0)
    ranker = build_model(recipe, data.encoding, data.cross_values).eval()
    result = evaluate(ranker, data, "validation")
    (batch,) = ordered_batches(data, "validation", 10_000)
    with torch.no_grad():
        scores = {name: score.numpy() for name, score in ranker(batch).items()}
    click = batch["label/click"].numpy()
    like = batch["label/like"].numpy()
    assert result["outputs"]["pctr"]["auc"] == pytest.approx(auc(click, scores["pctr"]), abs=1e-6)
    assert result["outputs"]["pctcvr"]["auc"] == pytest.approx(auc(click * like, scores["pctcvr"]), abs=1e-6)
    clicked = click > 0
    assert result["outputs"]["pcvr"]["auc"] == pytest.approx(auc(like[clicked], scores["pcvr"][clicked]), abs=1e-6)
    assert result["outputs"]["pcvr"]["impressions"] == clicked.sum()
    assert result["extra"][0]["auc"] == pytest.approx(auc(like, scores["pctcvr"]), abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_task_and_keeps_the_last_good_weights(
    tiny_recipe, tmp_path, monkeypatch
):
    recipe = tiny_recipe()
    seen = []

    def spoiled(ranker, batch, plain=MultiTaskModel.losses):
        seen.append(1)
        losses = plain(ranker, batch)
        return losses | ({"plong_view": losses["plong_view"] * torch.nan} if len(seen) > 12 else {})

    monkeypatch.setattr(MultiTaskModel, "losses", spoiled)
    with pytest.raises(training.NonFiniteLossError, match=r"step 13: the loss of plong_view is not finite"):
        run(recipe, tmp_path)
    assert all(bool(torch.isfinite(w).all()) for w in weights(tmp_path / "run").values())
    assert (tmp_path / "run" / "history.json").exists()


def test_a_suspiciously_good_auc_is_called_a_possible_leak(tiny_recipe, tables, tmp_path):
    tables["impressions"]["battery"] = tables["impressions"]["click"] * 2.0
    metrics = run(tiny_recipe(tables, {"training.epochs": 6}), tmp_path)
    assert any("make sure that no feature holds the label" in w for w in metrics["warnings"])


def test_the_report_needs_nothing_from_outside(tiny_recipe, tmp_path):
    run(tiny_recipe(), tmp_path)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") == 4
    for word in ("Losses", "Calibration", "Gate utilisation", "users / skipped", "SHA-256 of impressions.parquet"):
        assert word in page
    without_names = (
        page.replace('"http://www.w3.org/', "")
        .replace('"http://purl.org/', "")
        .replace('"http://creativecommons.org/', "")
    )
    assert "http" not in without_names
    assert "<script" not in page
    assert "src=" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "no such file"),
        (["RECIPE", "--set", "training.epochs"], "write section.key=value"),
        (["RECIPE", "--set", "training.epochs=0"], "training.epochs"),
        (["RECIPE", "--set", "model.architecture=mmo"], "mmo"),
        (["RECIPE", "--set", "training.select_on=[pctx]"], "pctx"),
    ],
)
def test_a_command_that_cannot_work_says_why_and_exits_with_1(tiny_recipe, tmp_path, capsys, arguments, message):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(tiny_recipe().model_dump(mode="json")))
    given = [str(recipe_file) if a == "RECIPE" else a for a in arguments]
    assert main(["train", *given, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 1
    assert message in capsys.readouterr().err
