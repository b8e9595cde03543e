"""Tests `extends`: what a recipe inherits, what it replaces, and the file and line in an error."""

import re

import pytest
import yaml

from funnelrank.main import main
from models.recipe import RecipeError, load_recipe, with_places


@pytest.fixture
def base_file(tiny_recipe, tmp_path):
    path = tmp_path / "base" / "whole.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(tiny_recipe().model_dump(mode="json", exclude_unset=True), sort_keys=False))
    return path


@pytest.fixture
def extending(base_file, tmp_path):
    def write(text, name="own.yaml", extends="base/whole.yaml"):
        path = tmp_path / name
        path.write_text(f"extends: {extends}\n{text}")
        return path

    return write


def message_of(path):
    with pytest.raises(RecipeError) as refusal:
        load_recipe(path)
    return str(refusal.value)


def test_a_recipe_that_says_nothing_is_the_one_that_it_extends(base_file, extending):
    assert load_recipe(extending("")) == load_recipe(base_file)


def test_mappings_merge_deeply_and_lists_and_scalars_replace(base_file, extending):
    base = load_recipe(base_file)
    own = load_recipe(extending("training: {epochs: 7, select_on: [pctr]}\nmodel: {embedding: {dim: 6}}\n"))
    assert own.training == base.training.model_copy(update={"epochs": 7, "select_on": ("pctr",)})
    assert own.model.embedding == base.model.embedding.model_copy(update={"dim": 6})
    assert own.features == base.features and own.data == base.data


def test_a_part_of_another_type_inherits_nothing(extending):
    extending("model: {trunk: {type: mmoe, experts: 3, expert_hidden: [8]}}\n", "mixture.yaml")
    same = load_recipe(extending("model: {trunk: {experts: 5}}\n", "more.yaml", "mixture.yaml"))
    assert (same.model.trunk.type, same.model.trunk.experts, same.model.trunk.expert_hidden) == ("mmoe", 5, (8,))
    other = load_recipe(extending("model: {trunk: {type: ple, levels: 1}}\n", "other.yaml", "mixture.yaml"))
    assert (other.model.trunk.type, other.model.trunk.levels) == ("ple", 1)


def test_a_run_holds_the_whole_recipe(extending, tmp_path):
    path = extending("name: own\ntraining: {epochs: 1}\n")
    out = tmp_path / "out"
    assert (
        main(["train", str(path), "--out", str(out), "--cache", str(tmp_path / "cache"), "--reading-steps", "0"]) == 0
    )
    assert "extends" not in (out / "recipe.yaml").read_text()
    assert load_recipe(out / "recipe.yaml") == load_recipe(path)


def test_an_error_names_the_file_that_holds_the_fault(base_file, extending):
    base_file.write_text(base_file.read_text().replace("dim: 4", "dim: 0"))
    message = message_of(extending("training:\n  epochs: 0\n"))
    line = base_file.read_text()[: base_file.read_text().index("dim: 0")].count("\n") + 1
    assert re.search(rf"base/whole\.yaml:{line}: model\.embedding\.dim: ", message), message
    assert re.search(r"own\.yaml:3: training\.epochs: ", message), message


def test_an_error_never_names_the_place_of_a_replaced_value(base_file, extending):
    base_file.write_text(base_file.read_text().replace("label: long_view", "lable: long_view"))
    load_recipe(extending("tasks: [{type: independent, name: pctr, label: click}]\nextra_evaluations: []\n"))
    assert "own.yaml:2: tasks.0.lable: " in message_of(
        extending("tasks: [{type: independent, name: pctr, lable: click}]\n")
    )


def test_a_late_error_names_the_file_that_holds_the_fault(base_file, extending):
    base_file.write_text(base_file.read_text().replace("architecture: mmoe", "architecture: mmeo"))
    path = extending("")
    late = RecipeError("model.architecture: 'mmeo' is not in the catalogue", ("model", "architecture"))
    assert re.match(r"\S+base/whole\.yaml:\d+: model\.architecture: 'mmeo'", str(with_places(late, path)))


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("base/hole.yaml", r"own\.yaml:1: extends: no file '\S+base/hole\.yaml'; did you mean 'whole\.yaml'\?"),
        ("own.yaml", r"own\.yaml:1: extends: a circle: \S+own\.yaml extends \S+own\.yaml"),
        ("[a, b]", r"own\.yaml:1: extends: name one file"),
    ],
)
def test_a_base_that_cannot_be_read_is_named_with_its_line(extending, extends, message):
    assert re.search(message, message_of(extending("", extends=extends)))


def test_a_circle_of_two_is_refused(extending):
    extending("", "there.yaml", "back.yaml")
    assert "a circle" in message_of(extending("", "back.yaml", "there.yaml"))
