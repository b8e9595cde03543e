"""Refuses a task whose space contains no impression, before training starts."""

from collections.abc import Mapping

import numpy as np

from models.catalogue import Task
from models.recipe import Recipe, RecipeError
from models.structures.class_preference import ClassPreferenceOptions
from models.structures.independent import IndependentOptions

PARTS_NEEDED = ("train", "validation")  # the parts that train and select the weights


def refuse_empty_spaces(recipe: Recipe, labels: Mapping[str, np.ndarray]) -> None:
    """Raise RecipeError if a task has no impression of its space in the training or validation part.

    `labels` float32 `[n, labels]` by part. A loss or metric over an empty set is undefined, so it cannot select
    weights.
    """
    for i, task in enumerate(recipe.tasks):
        column = _space(task)
        empty = [part for part in PARTS_NEEDED if column and not _any_in_space(recipe, column, labels[part])]
        if empty:
            raise RecipeError(
                f"tasks.{i}: the {empty[0]} part has no impression where '{column}' is 1, and only "
                f"those count for the task; check data.split.{empty[0]} and the column",
                ("tasks", i),
                column,
            )


def _space(task: Task) -> str | None:
    """Return the column that is 1 for the impressions of a task; None if the task uses all impressions."""
    if isinstance(task, IndependentOptions):
        return task.space
    return task.label if isinstance(task, ClassPreferenceOptions) else None


def _any_in_space(recipe: Recipe, column: str, labels: np.ndarray) -> bool:
    return bool((labels[:, recipe.label_columns.index(column)] > 0).any())
