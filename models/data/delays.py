"""Refuses columns of delayed conversions that contradict each other, before training starts."""

from models.data.cache import Data
from models.recipe import RecipeError
from models.structures.delay import FakeNegativesOptions

_LATER_PARTS = ("validation", "test")


def refuse_impossible_delays(data: Data) -> None:
    """Raise RecipeError if the columns that a task's `delay` reads cannot be those of a log.

    A loss would train on them without a sign: a negative age makes a missing conversion likelier than certain.
    """
    recipe = data.recipe
    names = recipe.label_columns
    for i, task in enumerate(recipe.tasks):
        # Any chain may have these two options.
        delay = getattr(task, "delay", None)
        if delay is None:
            continue
        place = ("tasks", i, "delay")
        column = {name: data.parts["train"].labels[:, names.index(name)] for name in delay.columns}
        converted = data.parts["train"].labels[:, names.index(getattr(task, "conversion", ""))] > 0
        problem = delay.problem(converted, column)
        if problem:
            raise RecipeError(f"tasks.{i}.delay: {problem}", place)
        if isinstance(delay, FakeNegativesOptions):
            _refuse_repetitions(data, delay.late, i)


def _refuse_repetitions(data: Data, late: str, task: int) -> None:
    """Raise RecipeError where a repeated impression would count twice."""
    recipe = data.recipe
    place = ("tasks", task, "delay")
    if len(recipe.tasks) > 1:
        problem = f"rows with '{late}' repeat an impression, which the other tasks would count twice"
        raise RecipeError(f"tasks.{task}.delay: {problem}; give this task a recipe of its own", place)
    for part in _LATER_PARTS:
        repeated = int((data.parts[part].labels[:, recipe.label_columns.index(late)] > 0).sum())
        if repeated:
            problem = f"'{late}' is 1 in {repeated:,} rows of the {part} part, which has each impression once"
            raise RecipeError(f"tasks.{task}.delay: {problem}, with its final label", place)
