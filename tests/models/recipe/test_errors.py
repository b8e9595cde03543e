"""Owns the promises about recipes that cannot be used: the line, what is wrong there, and the nearest valid name."""

import re

import pytest
import yaml

from funnelrank.main import main
from models.recipe import RecipeError, load_recipe

LABEL = "- {name: tab, type: categorical}"
CASES = {
    "unknown model": (
        "architecture: mmoe",
        "architecture: mmeo",
        "model.architecture: 'mmeo' is not in the catalogue; did you mean 'mmoe'?",
    ),
    "unknown task": ("- type: esmm", "- type: esm", "tasks.0.type: 'esm' is unknown; did you mean 'esmm'?"),
    "unknown feature": (
        "    - item_id\n",
        "    - item_ids\n",
        "behaviour.item_features: 'item_ids' is not an item feature; did you mean 'item_id'?",
    ),
    "unknown feature type": (
        "type: multi_categorical",
        "type: multicategorical",
        "features.item.1.type: 'multicategorical' is unknown; did you",
    ),
    "unknown option": (
        "batch_size: 64",
        "batch_sise: 64",
        "training.batch_sise: 'batch_sise' is not an option here; did you mean 'batch_size'?",
    ),
    "unknown option of an encoder": (
        "    hidden:",
        "    hiden:",
        "model.encoders.0.hiden: 'hiden' is not an option here; did you mean 'hidden'?",
    ),
    "task without label": ("  label: long_view\n", "", "tasks.1.label: is missing"),
    "label that no column holds": ("label: long_view", "label: long_vew", "no column 'long_vew'"),
    "negative weight": (
        "  patience: 10",
        "  patience: 10\n  loss_weights: {pctr: -0.5}",
        "training.loss_weights.pctr: Input should be greater",
    ),
    "weight of no output": (
        "  patience: 10",
        "  patience: 10\n  loss_weights: {pctrr: 1}",
        "'pctrr' is not an output; did you mean 'pctr'?",
    ),
    "label as an input": (
        "- name: tab",
        "- name: click",
        "'click': this column is a label and cannot be an ordinary feature",
    ),
    "evaluation of no output": (
        "score: pctcvr",
        "score: pcctcvr",
        "extra_evaluations: 'pcctcvr' is not an output; did you mean 'pctcvr'?",
    ),
    "a key that stands twice": (
        "  patience: 10",
        "  patience: 10\n  patience: 11",
        "training.patience: this key stands here twice",
    ),
    "a value of two parts": ("by: time", "by: tame", "data.split.by: 'tame' is unknown; did you mean 'time'?"),
}


@pytest.fixture
def recipe_file(tiny_recipe, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe().model_dump(mode="json", exclude_unset=True), sort_keys=False))
    return path


def refused(path, tmp_path, capsys, *more):
    assert main(["train", str(path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), *more]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_a_bad_recipe_is_refused_with_its_line_and_the_nearest_name(recipe_file, tmp_path, capsys, case):
    old, new, message = CASES[case]
    text = recipe_file.read_text()
    assert old in text, "the test changes a line that is there"
    recipe_file.write_text(text.replace(old, new, 1))
    said = refused(recipe_file, tmp_path, capsys)
    assert message in said
    changed = text[: text.index(old)].count("\n") + 1
    line = int(re.search(r"recipe\.yaml:(\d+): ", said)[1])
    near = (0, 1) if "\n" in new else (-1, 0) if not new else (0,)  # a line that is missing is told by its task's
    assert line - changed in (*near, *((-2,) if not new else ())), said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.architecture=mmeo",
            "--set model.architecture=mmeo: model.architecture: 'mmeo' is not in the catalogue; did you mean 'mmoe'?",
        ),
        (
            "trainin.epochs=1",
            "--set trainin.epochs=1: trainin: 'trainin' is not an option here; did you mean 'training'?",
        ),
        (
            "training.loss_weights={pctr: -1}",
            "--set training.loss_weights={pctr: -1}: training.loss_weights.pctr: Input should be greater",
        ),
        (
            "training.select_on=[pctx]",
            "--set training.select_on=[pctx]: training.select_on: 'pctx' is not an output; did you mean 'pctr'?",
        ),
        ("training.epochs=[", "'[' is not YAML"),
        ("name.x=3", "'name' is not a section"),
    ],
)
def test_a_bad_override_is_named_in_place_of_a_line(recipe_file, tmp_path, capsys, override, message):
    assert message in refused(recipe_file, tmp_path, capsys, "--set", override)


def test_every_fault_is_told_at_once(recipe_file):
    recipe_file.write_text(recipe_file.read_text().replace("epochs: 2", "epochs: 0").replace("dim: 4", "dim: 0"))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe_file)
    assert len(re.findall(r"recipe\.yaml:\d+: ", str(refusal.value))) == 2
