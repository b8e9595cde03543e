"""Tests CREAD with labels out of the ordinary: negative times, one time that all have, or that many have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import RecipeError
from models.recipe import Recipe
from models.structures.cread import Cread, CreadOptions
from models.train import train


def test_a_negative_time_is_refused_by_the_name_of_its_label() -> None:
    task = Cread(CreadOptions(type="cread", name="watch_time", label="watched_s", thresholds=4))
    task.fit(np.array([0.0, 1.0, 4.0]), {})
    assert bool((torch.diff(task.buckets.thresholds) >= 0).all())
    with pytest.raises(RecipeError, match="^tasks: label 'watched_s' of a cread task is a time, .*; found -2$"):
        task.fit(np.array([1.0, -2.0]), {})


@pytest.mark.parametrize(
    "time",
    [[7.0] * 50, [7.0] * 40 + [9.0] * 10, [0.0] * 10 + [7.0] * 30 + [8.5] * 10],
    ids=["all", "most, and some longer", "many in the middle"],
)
def test_perfect_answers_restore_a_time_that_many_have(time: list[float]) -> None:
    """A threshold is the quantile of a level: it is the time that many have, and its bucket has a width."""
    task = Cread(CreadOptions(type="cread", name="watch_time", label="watched_s", thresholds=6))
    task.fit(np.array(time), {})
    label = torch.tensor(time)
    logits = torch.where(task.buckets.reached(label), 50.0, -50.0)
    frequent = label == 7
    np.testing.assert_allclose(task.value({"watch_time": logits})[frequent], 7.0, rtol=1e-6)
    assert not task.buckets.reached(torch.zeros(1)).any()


def test_a_constant_time_is_learned(tiny_recipe: Callable[..., Recipe], tables: Any, tmp_path: Path) -> None:
    tables["impressions"]["watched"] = 7.0
    task = {"type": "cread", "name": "watch", "label": "watched", "thresholds": 4}
    changes = {"tasks": [task], "extra_evaluations": [], "training.epochs": 6, "training.learning_rate": 0.03}
    recipe = tiny_recipe(tables, changes)
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    assert metrics["parts"]["test"]["outputs"]["watch"]["mae"] < 0.1
