"""Refuses a task whose space holds no impression, before anything is trained on it."""

from collections.abc import Mapping

import numpy as np

from models.catalogue import Task
from models.recipe import Recipe, RecipeError
from models.structures.class_preference import ClassPreferenceOptions
from models.structures.independent import IndependentOptions

PARTS_NEEDED = ("train", "validation")  # what is learnt from, and what weights are selected by


def refuse_empty_spaces(recipe: Recipe, labels: Mapping[str, np.ndarray]) -> None:
    """Raise RecipeError for a task without an impression of its space in the training or validation part.

    `labels` float32 `[n, labels]` by part. The mean over an empty set is no number, and no weights are best by it.
    """
    for i, task in enumerate(recipe.tasks):
        column = _space(task)
        empty = [part for part in PARTS_NEEDED if column and not _any_in_space(recipe, column, labels[part])]
        if empty:
            raise RecipeError(
                f"tasks.{i}: the {empty[0]} part has no impression where '{column}' is 1, and the task is learnt and "
                f"measured on those alone; check data.split.{empty[0]} and the column",
                ("tasks", i),
                column,
            )


def _space(task: Task) -> str | None:
    """The column that is 1 where a task is learnt; None if that is everywhere."""
    if isinstance(task, IndependentOptions):
        return task.space
    return task.label if isinstance(task, ClassPreferenceOptions) else None


def _any_in_space(recipe: Recipe, column: str, labels: np.ndarray) -> bool:
    return bool((labels[:, recipe.label_columns.index(column)] > 0).any())
