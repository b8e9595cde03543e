"""Tests the search: trials are compared on validation only; it is repeatable for a seed, resumable, and bounded."""

import json
import subprocess
import sys

import numpy as np
import optuna
import pytest
import yaml
from killed_writer import killed_while_it_writes
from small_disk import files_of_at_most

from funnelrank.main import message_of
from models import train as training
from models.data.cache import open_data
from models.recipe import RecipeError, load_recipe
from models.training.transfer import narrowed
from models.tuning import tune as tuning

SPACE = {
    "model.dropout": {"low": 0.0, "high": 0.4},
    "model.trunk": {"choices": [{"type": "mmoe", "experts": 2}, {"type": "shared_bottom", "hidden": [8]}]},
    "training.batch_size": {"low": 32, "high": 128, "log": True},
}


def tune(recipe, tmp_path, name="search"):
    return tuning.tune(recipe, tmp_path / name, cache=tmp_path / "cache", quiet=True)


def trials_of(report):
    """A report without its times."""
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in report["trials"]]


def test_a_search_ends_with_a_recipe_that_scores_what_it_promised(searched, tmp_path):
    report = tune(searched(), tmp_path)
    scores = [t["score"] for t in report["trials"] if t["state"] == "complete"]
    assert report["best"]["score"] == max(scores)
    assert report == json.loads((tmp_path / "search" / "trials.json").read_text())
    tuned = load_recipe(tmp_path / "search" / "tuned.yaml")
    metrics = training.train(tuned, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert metrics["best"]["score"] == report["best"]["score"]
    assert report["best"]["score"] == pytest.approx(
        np.mean([report["best"]["validation"][n] for n in ("pctr", "plong_view")])
    )
    assert not (tmp_path / "search" / "trial").exists()


def test_the_first_trial_is_the_recipe_as_it_is(searched, tmp_path):
    first = tune(searched(trials=1), tmp_path)["best"]
    assert first["own"]
    assert first["settings"] == {
        "model.dropout": 0.0,
        "model.trunk": SPACE["model.trunk"]["choices"][0],
        "training.batch_size": 64,
    }


def test_own_settings_outside_the_space_are_no_trial(searched, tmp_path):
    report = tune(searched(trials=1, space={"model.dropout": {"low": 0.1, "high": 0.4}}), tmp_path)
    assert not report["best"]["own"]
    assert 0.1 <= report["best"]["settings"]["model.dropout"] <= 0.4


def test_an_own_setting_of_0_lies_outside_a_logarithmic_scale(searched, tmp_path):
    """Weight decay is 0 unless a recipe sets it."""
    space = {"training.weight_decay": {"low": 1e-5, "high": 0.1, "log": True}}
    report = tune(searched(space=space, trials=1), tmp_path)
    assert not report["best"]["own"]
    assert 1e-5 <= report["best"]["settings"]["training.weight_decay"] <= 0.1


def test_the_set_lines_of_the_report_make_the_tuned_recipe(searched, tmp_path):
    recipe = searched()
    tune(recipe, tmp_path)
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)))
    lines = [
        line.split(maxsplit=1)[1]
        for line in (tmp_path / "search" / "trials.md").read_text().splitlines()
        if line.startswith("    --set")
    ]
    assert len(lines) == len(SPACE)
    overrides = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {' '.join(lines)}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert load_recipe(recipe_file, tuple(overrides)) == load_recipe(tmp_path / "search" / "tuned.yaml")


def test_the_same_seed_draws_the_same_trials_and_another_seed_others(searched, tmp_path):
    first, same, other = (
        trials_of(tune(searched(seed=seed), tmp_path, name)) for name, seed in (("a", 4), ("b", 4), ("c", 5))
    )
    assert first == same
    assert [t["settings"] for t in first[1:]] != [t["settings"] for t in other[1:]]


def test_the_test_part_has_no_say_and_is_not_even_there(searched, tables, tmp_path):
    before = trials_of(tune(searched(tables), tmp_path, "a"))
    late = tables["impressions"].time_ms >= 1_651_766_400_000  # 6 May, +08:00
    for label in ("click", "like", "long_view"):
        tables["impressions"].loc[late, label] = 1 - tables["impressions"].loc[late, label]
    assert trials_of(tune(searched(tables), tmp_path, "b")) == before
    assert set(tuning.without_test(open_data(searched(), tmp_path / "cache")).parts) == {"train", "validation"}


def command(recipe_file, out, tmp_path, *more):
    return [
        sys.executable,
        "-m",
        "models.tune",
        str(recipe_file),
        "--out",
        str(out),
        "--cache",
        str(tmp_path / "cache"),
        *more,
    ]


def trials_in(folder):
    if not (folder / "study.db").exists():
        return []
    return optuna.load_study(study_name="tuning", storage=f"sqlite:///{folder / 'study.db'}").get_trials(deepcopy=False)


@pytest.mark.slow
def test_a_search_killed_and_started_again_finds_what_an_uninterrupted_one_finds(searched, tmp_path):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(searched(changes={"training.epochs": 4}, trials=4).model_dump(mode="json")))
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    subprocess.run(command(recipe_file, whole, tmp_path), check=True, capture_output=True)

    killed_while_it_writes(command(recipe_file, killed, tmp_path), killed / "trial" / "resume.pt", times=2)
    assert (killed / "trial" / "resume.pt").exists()
    states = [t.state.name for t in trials_in(killed)]
    assert states[-1] == "RUNNING"

    done = subprocess.run(command(recipe_file, killed, tmp_path), check=True, capture_output=True, text=True)
    assert "trial 4 of 4: " in done.stdout + done.stderr
    reports = [json.loads((folder / "trials.json").read_text()) for folder in (whole, killed)]
    assert trials_of(reports[0]) == trials_of(reports[1])


def test_more_trials_are_added_to_those_that_are_there(searched, tmp_path):
    tune(searched(trials=2), tmp_path)
    again = trials_of(tune(searched(trials=3), tmp_path))
    assert again == trials_of(tune(searched(trials=3), tmp_path, "at once"))


def test_a_folder_with_another_recipes_trials_is_refused(searched, tmp_path):
    tune(searched(trials=1), tmp_path)
    with pytest.raises(
        RecipeError, match=r"--out .*search: holds trials made with another recipe; give another folder"
    ):
        tune(searched(changes={"model.tower_hidden": [4]}), tmp_path)


def test_no_trial_starts_after_the_time_limit(searched, tmp_path):
    assert len(tune(searched(trials=50, time_limit_minutes=1e-4), tmp_path)["trials"]) == 1


def test_settings_that_do_not_go_together_are_pruned_with_the_reason(searched, tmp_path):
    space = {
        "model.architecture": {"choices": ["mmoe", "youtube2019"]},
        "training.weighting": {"choices": [{"type": "static"}, {"type": "pcgrad"}]},
    }
    decayed = {"type": "decayed", "decay": {"nobody": 0.9}}
    space["training.weighting"]["choices"].append(decayed)
    report = tune(searched(trials=8, space=space), tmp_path)
    refused = [t for t in report["trials"] if t["settings"]["training.weighting"] == decayed]
    assert refused, "the seed draws it"
    assert all(t["state"] == "pruned" and "'nobody' is not" in t["reason"] for t in refused)
    assert report["best"]["settings"]["training.weighting"] != decayed


def test_a_loss_that_is_not_finite_is_pruned_with_the_reason_and_the_search_goes_on(searched, tmp_path):
    space = {"training.learning_rate": {"choices": [0.01, 1e30]}}
    report = tune(searched(trials=6, space=space), tmp_path)
    diverged = [t for t in report["trials"] if t["settings"]["training.learning_rate"] == 1e30]
    assert diverged, "the seed draws it"
    assert all(t["state"] == "pruned" and "not finite" in t["reason"] for t in diverged)
    assert report["best"]["settings"]["training.learning_rate"] == 0.01


def test_a_trial_far_below_the_others_is_given_up_early(searched, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "JUDGED_AFTER", 1)
    space = {"training.learning_rate": {"choices": [0.01, 1e-9]}}
    report = tune(searched(changes={"training.epochs": 2}, trials=6, space=space), tmp_path)
    slow = [t for t in report["trials"] if t["settings"]["training.learning_rate"] == 1e-9]
    assert slow, "the seed draws it"
    assert all(
        t["state"] == "pruned" and t["reason"] == "below the median of the trials before it at 25% of its steps"
        for t in slow
    )
    assert "below the median" in (tmp_path / "search" / "trials.md").read_text()


@pytest.mark.parametrize("size", [0, 40_000])
def test_a_search_whose_study_finds_no_room_names_its_file_and_begins_anew_with_room(searched, tmp_path, size):
    recipe = searched(trials=1)
    open_data(narrowed(recipe), tmp_path / "cache")
    with files_of_at_most(size), pytest.raises(OSError, match="cannot be stored: ") as refused:
        tune(recipe, tmp_path)
    message = message_of(refused.value)
    assert message.startswith(f"{tmp_path / 'search' / 'study.db'}: cannot be stored: ") and "\n" not in message
    done = tune(recipe, tmp_path)
    assert [trial["state"] for trial in done["trials"]] == ["complete"]
