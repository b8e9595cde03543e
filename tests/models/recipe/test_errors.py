"""Tests recipes that cannot be used: the errors name the line, the problem, and the nearest valid name."""

import re

import pytest
import yaml

from funnelrank.main import main
from models.recipe import RecipeError, load_recipe, with_places

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
    "a key that occurs twice": (
        "  patience: 10",
        "  patience: 10\n  patience: 11",
        "training.patience: this key occurs twice here",
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
    error = refused(recipe_file, tmp_path, capsys)
    assert message in error
    changed = text[: text.index(old)].count("\n") + 1
    line = int(re.search(r"recipe\.yaml:(\d+): ", error)[1])
    near = (0, 1) if "\n" in new else (-1, 0) if not new else (0,)  # a missing line has the place of its task
    assert line - changed in (*near, *((-2,) if not new else ())), error


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
        ("training=5", "--set training=5: training: a section is needed, with keys out of: epochs, batch_size, "),
        ("tasks=[x]", "--set tasks=[x]: tasks.0: a section is needed, found 'x'"),
        ("training.select_on=pctr", "training.select_on: a list is needed, as in [a, b], found 'pctr'"),
        ("training.select_on=[gauk(pctr)]", "an output is needed, or a metric of one: auc(pctr), gauc(pctr)"),
        ("name=0123", "--set name=0123: 0123 without quotes is octal in YAML and means 83: write '0123', or 83"),
        ("name=yes", "--set name=yes: name: a text is needed, found True; write 'yes'"),
        ("name=2022-05-01", "name: a text is needed, found 2022-05-01; write '2022-05-01'"),
        ("training.epochs=yes", "training.epochs: a number is needed, and yes is a truth value in YAML"),
        ("training.learning_rate=true", "training.learning_rate: a number is needed, and true is a truth value"),
        ("training.learning_rate=1e999", "training.learning_rate: Input should be a finite number"),
        ("training.learning_rate=.inf", "training.learning_rate: Input should be a finite number"),
        (
            "data.split={by: column, column: day, train: [yes], validation: [b], test: [c]}",
            "data.split.train.0: YAML takes yes without quotes for a truth value: write 'yes'",
        ),
        (
            "data.split={by: column, column: day, train: [1.5], validation: [b], test: [c]}",
            "data.split.train.0: a text is needed, found 1.5; write '1.5'\n",
        ),
        ("name.x=3", "'name' is not a section"),
    ],
)
def test_a_bad_override_is_named_in_place_of_a_line(recipe_file, tmp_path, capsys, override, message):
    assert message in refused(recipe_file, tmp_path, capsys, "--set", override)


def test_all_faults_are_in_one_error(recipe_file):
    recipe_file.write_text(recipe_file.read_text().replace("epochs: 2", "epochs: 0").replace("dim: 4", "dim: 0"))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe_file)
    assert len(re.findall(r"recipe\.yaml:\d+: ", str(refusal.value))) == 2


def test_each_fault_has_its_place_and_location_as_data(recipe_file):
    text = recipe_file.read_text().replace("epochs: 2", "epochs: 0").replace("dim: 4", "dimm: 4")
    recipe_file.write_text(text)
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe_file)
    lines = text.splitlines()
    places = {fault.location: fault.place for fault in refusal.value.faults}
    for location, line in {
        ("model", "embedding", "dimm"): "    dimm: 4",
        ("training", "epochs"): "  epochs: 0",
    }.items():
        assert (places[location].source, places[location].line) == (str(recipe_file), lines.index(line) + 1)


def test_an_error_that_shows_late_gets_its_place_from_its_location_not_from_its_words(recipe_file):
    late = RecipeError("something is wrong", ("training", "batch_size"))
    (fault,) = with_places(late, recipe_file).faults
    assert recipe_file.read_text().splitlines()[fault.place.line - 1].strip() == "batch_size: 64"
    by_option = with_places(late, recipe_file, ("training.batch_size=32",))
    assert str(by_option) == "--set training.batch_size=32: something is wrong"


def test_a_fault_inside_a_section_is_found_by_its_name(recipe_file):
    late = RecipeError("something is wrong", ("tasks",), "long_view")
    (fault,) = with_places(late, recipe_file).faults
    assert recipe_file.read_text().splitlines()[fault.place.line - 1].strip() == "label: long_view"


def test_a_value_that_stands_in_two_parts_of_a_split_is_named_with_its_line(recipe_file):
    raw = yaml.safe_load(recipe_file.read_text())
    raw["data"]["split"] = {"by": "column", "column": "date", "train": [1, 2], "validation": [2], "test": [3]}
    recipe_file.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+: data\.split: the value 2 is in two parts") as refusal:
        load_recipe(recipe_file)
    line = refusal.value.faults[0].place.line
    assert recipe_file.read_text().splitlines()[line - 1].strip() == "- 2"


def test_true_is_a_category_where_one_is_wanted(recipe_file):
    split = "{by: column, column: paid, train: [true], validation: [false], test: [c]}"
    assert load_recipe(recipe_file, (f"data.split={split}",)).data.split.train == (1,)  # the key of a true value
