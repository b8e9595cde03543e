"""Tests the tuning section of a recipe: a bad space is refused with its line and the nearest name."""

import json

import pytest
import yaml

from funnelrank.main import main
from models.recipe import load_recipe

BAD = {
    "no such setting": (
        {"model.dropuot": {"low": 0, "high": 0.3}},
        "'model.dropuot' is no setting of this recipe; did you mean 'model.dropout'?",
    ),
    "no such section": (
        {"trainin.epochs": {"low": 1, "high": 3}},
        "'trainin.epochs' is no setting of this recipe; did you mean 'training.epochs'?",
    ),
    "another trunk's setting": (
        {"model.trunk.own_experts": {"low": 1, "high": 3}},
        "did you mean 'model.trunk.experts'?",
    ),
    "a value it never takes": (
        {"training.epochs": {"low": 0, "high": 3}},
        "'training.epochs': Input should be greater than or equal to 1, found 0",
    ),
    "half a batch": (
        {"training.batch_size": {"low": 8.5, "high": 64}},
        "'training.batch_size': Input should be a valid integer",
    ),
    "a choice it never takes": ({"model.trunk": {"choices": [{"type": "mmeo"}]}}, "'model.trunk': Input tag 'mmeo'"),
    "an empty range": (
        {"model.dropout": {"low": 0.3, "high": 0.3}},
        "tuning.space.model.dropout: low 0.3 is not below high 0.3",
    ),
    "half a range": ({"model.dropout": {"low": 0.3}}, "tuning.space.model.dropout: give low and high, or choices"),
    "both kinds": (
        {"model.dropout": {"low": 0.1, "choices": [0.2]}},
        "tuning.space.model.dropout: give either choices, or low and high",
    ),
    "log from 0": ({"model.dropout": {"low": 0, "high": 0.3, "log": True}}, "with log, low must be above 0, found 0"),
    "an unknown bound": (
        {"model.dropout": {"hihg": 0.3}},
        "tuning.space.model.dropout.hihg: 'hihg' is not an option here; did you mean 'high'?",
    ),
    "no number": ({"training.schedule": {"low": 1, "high": 2}}, "'training.schedule' is no number; give choices"),
    "the seed": ({"training.seed": {"low": 1, "high": 9}}, "'training.seed' cannot be searched"),
    "what selects": ({"training.select_on": {"choices": [["pctr"]]}}, "'training.select_on' cannot be searched"),
    "inside another": (
        {"model.trunk": {"choices": [{"type": "ple"}]}, "model.trunk.experts": {"low": 1, "high": 3}},
        "lies inside 'model.trunk'",
    ),
    "nothing": ({}, "tuning.space: at least 1 needed"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_space_is_refused_with_its_line_and_the_nearest_name(searched, tmp_path, capsys, case):
    space, message = BAD[case]
    recipe = searched().model_dump(mode="json", exclude_unset=True)
    recipe["tuning"] = {"space": "HERE"}
    recipe_file = tmp_path / "recipe.yaml"
    lines = yaml.safe_dump(recipe, sort_keys=False).splitlines()
    recipe_file.write_text("\n".join(lines).replace("space: HERE", f"space: {json.dumps(space)}"))
    assert main(["tune", str(recipe_file), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 1
    output = capsys.readouterr().err
    assert message in output
    assert f"recipe.yaml:{len(lines)}: " in output
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_extends_another_does_not_take_over_its_search(searched, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(
        yaml.safe_dump(
            searched(space={"model.trunk.experts": {"low": 1, "high": 4}}).model_dump(mode="json", exclude_unset=True)
        )
    )
    own = tmp_path / "own.yaml"
    own.write_text("extends: base.yaml\nmodel: {architecture: shared_bottom, trunk: {type: shared_bottom}}\n")
    assert load_recipe(base).tuning is not None
    assert load_recipe(own).tuning is None


def test_a_recipe_without_a_tuning_section_is_told_what_to_write(tiny_recipe, tmp_path, capsys):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(tiny_recipe().model_dump(mode="json")))
    assert main(["tune", str(recipe_file), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 1
    assert "tuning: is missing; give its trials and its space" in capsys.readouterr().err
