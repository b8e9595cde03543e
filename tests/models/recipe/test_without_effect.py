"""Tests that options without an effect are refused when a training begins, and that no other recipe is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_tables import RECIPE, merged

from funnelrank.main import main
from models.recipe import Recipe, RecipeError, load_recipe, parse_recipe
from models.recipe.without_effect import refuse_options_without_effect

RECIPES = Path(__file__).parents[3] / "models" / "recipes"
BINNED = {"encoding": "piecewise_linear"}
NO_CONTEXT = {"features.context": [], "features.behaviour.scene_vocabulary": "scene"}
ONE_TASK = {"tasks": [{"type": "independent", "name": "pctr", "label": "click"}], "extra_evaluations": []}
PREFERENCE = {"type": "class_preference", "name": "length", "label": "click", "feature": "length", "edges": [3.0]}
OF_REPRESENTATION = {"tasks": [PREFERENCE], "model.architecture": "dupn", "model.encoders": [{"type": "dupn"}]}
POSITION = {"column": "position", "head": "pctr"}
SEEN = {"by": "explicit", "k": 3}
LABELS = {"click": {"actions": ["click"], "window_s": 60}}


def home(*groups: list[str]) -> dict[str, Any]:
    return {"model.architecture": "home", "model.trunk": {"type": "home", "groups": list(groups)}}


def sequence(encoder: dict[str, Any]) -> dict[str, Any]:
    return {"model.sequences": {"clicks": {"actions": ["click"], "length": 5, "encoders": [encoder]}}}


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"model.batch_norm": ["trunk", "trunk"]}, "model.batch_norm", "'trunk' stands there twice"),
    ({"model.outputs": ["item_vector", "item_vector"]}, "model.outputs", "'item_vector' stands there twice"),
    ({"model.trunk_groups": ["item", "item"]}, "model.trunk_groups", "'item' stands there twice"),
    ({"model.batch_norm": ["towers"], "model.tower_hidden": []}, "model.batch_norm", "the towers have no hidden layer"),
    (OF_REPRESENTATION | {"model.batch_norm": ["trunk"]}, "model.batch_norm", "no task has a tower on the trunk"),
    ({"model.domain": {"feature": "tab", "values": ["0"]}}, "model.domain", "the trunk 'mmoe' reads no domain"),
    (home(["pctr", "pcvr", "plong_view"], []), "model.trunk.groups", "a group has no head"),
    ({"features.behaviour": None}, "model.encoders", "'din' reads features.behaviour, which the recipe lacks"),
    (
        {"features.behaviour": None, "model.encoders": [], "model.user_bias": {"encoders": [{"type": "pooling"}]}},
        "model.user_bias.encoders",
        "'pooling' reads features.behaviour",
    ),
    (
        {"features.behaviour": None, "model.encoders": None, "model.architecture": "sim"},
        "model.architecture",
        "'sim' is its encoder 'sim', which reads features.behaviour",
    ),
    ({"model.encoders": [{"type": "sim", "recent": 0, "hidden": [8]}]}, "model.encoders", "'hidden' of 'sim'"),
    (NO_CONTEXT | {"model.encoders": [{"type": "din", "context": True}]}, "model.encoders", "'context' of 'din'"),
    (sequence({"type": "sim", "recent": 0, "hidden": [8]}), "model.sequences.clicks.encoders", "'hidden' of 'sim'"),
    (NO_CONTEXT | sequence({"type": "din", "context": True}), "model.sequences.clicks.encoders", "'context' of 'din'"),
    ({"model.embedding.numerics": BINNED}, "model.embedding.numerics.encoding", "'piecewise_linear' reads bins"),
    (
        {
            "model.embedding.numerics.bins": 8,
            "features.user": RECIPE["features"]["user"][:2],
            "features.item": RECIPE["features"]["item"][:2],
            "features.context": RECIPE["features"]["context"][:1],
            "features.behaviour.item_features": ["tags", "item_id"],
        },
        "model.embedding.numerics.bins",
        "the recipe has no number",
    ),
    ({"training.final_rate": 0.5}, "training.final_rate", "the schedule is constant"),
    ({"training.position_learning_rate": 0.5}, "training.position_learning_rate", "the recipe has no position"),
    ({"training.position_weight_decay": 0.5}, "training.position_weight_decay", "the recipe has no position"),
    (ONE_TASK | {"training.weighting": {"type": "pcgrad"}}, "training.weighting", "the recipe has one"),
    ({"calibration": {"method": "platt", "knots": 5}}, "calibration.knots", "the method is 'platt'"),
    ({"log": {"seen": SEEN, "labels": LABELS}}, "log.seen.k", "this is 'explicit'"),
    ({"data.counter_lag_s": 5}, "data.counter_lag_s", "belongs to features.counters"),
]


def recipe_with(changes: dict[str, Any]) -> Recipe:
    return parse_recipe(merged(RECIPE, changes), "the test")


@pytest.mark.parametrize(("changes", "path", "problem"), CASES, ids=[path for _, path, _ in CASES])
def test_an_option_without_an_effect_is_refused_by_its_path(changes: dict[str, Any], path: str, problem: str) -> None:
    with pytest.raises(RecipeError) as refused:
        refuse_options_without_effect(recipe_with(changes))
    (fault,) = refused.value.faults
    assert fault.message.startswith(f"{path}: ")
    assert problem in fault.message
    assert fault.location == tuple(path.split("."))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.batch_norm": ["trunk", "towers"]},
        {"model.batch_norm": ["trunk"], "model.tower_hidden": []},
        {"features.behaviour": None, "model.encoders": None},
        {"features.behaviour": None, "model.encoders": []},
        {"model.encoders": [{"type": "sim", "recent": 0}]},
        {"model.encoders": [{"type": "din", "context": True}]},
        {"model.embedding.numerics": BINNED | {"bins": 8}},
        {"training.final_rate": 0.5, "training.schedule": "cosine"},
        {"training.position_learning_rate": 0.5, "position": POSITION},
        {"training.weighting": {"type": "pcgrad"}},
        {"calibration": {"method": "isotonic", "knots": 5}},
        {"log": {"seen": SEEN | {"by": "up_to_last_click_plus", "actions": ["click"]}, "labels": LABELS}},
        home(["pctr", "pcvr"], ["plong_view"]),
    ],
    ids=str,
)
def test_the_same_option_is_taken_where_it_has_one(changes: dict[str, Any]) -> None:
    recipe = recipe_with(changes)
    refuse_options_without_effect(recipe)
    # As a run holds it: with every option, also those at their defaults.
    refuse_options_without_effect(parse_recipe(json.loads(recipe.model_dump_json()), "a run"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")) + sorted(RECIPES.glob("variants/*.yaml")), ids=str)
def test_no_published_recipe_has_one(path: Path) -> None:
    refuse_options_without_effect(load_recipe(path))


def test_training_names_every_one_of_them_with_its_line_before_it_reads_the_tables(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(None, {"data.dir": str(tmp_path / "nowhere"), "training.final_rate": 0.5})
    path = tmp_path / "recipe.yaml"
    text = yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    path.write_text(text.replace("  tower_hidden:", "  batch_norm: [trunk, trunk]\n  tower_hidden:"))
    assert main(["train", str(path), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 1
    error = capsys.readouterr().err
    lines = path.read_text().splitlines()
    for key in ("batch_norm", "final_rate"):
        number = next(i for i, line in enumerate(lines, 1) if f"{key}:" in line)
        assert f"recipe.yaml:{number}: " in error
    assert not (tmp_path / "cache").exists()
