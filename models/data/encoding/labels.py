"""Reads what impressions are trained with and no request has: labels, weights and positions."""

import numpy as np

from models.recipe import Recipe
from models.recipe.sections.data import source_column
from tables import Batch, Table, TableError
from tables.types import family


def label_of(batch: Batch, name: str, recipe: Recipe) -> np.ndarray:
    """The label of each impression, float32 `[n]`. Raises TableError for one that a task cannot learn."""
    column = source_column(name)
    label = batch.labels(column)
    if column != name:
        label = np.log1p(np.where(label >= 0, label, np.nan))
    for kind in recipe.label_kinds[name]:
        bad = np.flatnonzero(~kind.allows(label))
        if len(bad):
            value = batch.raw(column).tolist()[bad[0]]
            message = f"label '{name}' must be {kind.label_rule} in every row of the split, found {value!r}"
            raise batch.error(column, message, int(bad[0]))
    return label.astype(np.float32)


def weight_of(batch: Batch, column: str) -> np.ndarray:
    """The weight of each impression, float32 `[n]`. Raises TableError for one that is negative or not finite."""
    with np.errstate(over="ignore"):
        weight = batch.numbers(column).astype(np.float32)
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        value = batch.raw(column).tolist()[bad[0]]
        rule = "a finite number of at least 0 in every row of the split"
        raise batch.error(column, f"weight '{column}' must be {rule}, found {value!r}", int(bad[0]))
    return weight


def position_of(batch: Batch, column: str, largest: int) -> np.ndarray:
    """The position of each impression, int32 `[n]`, at most `largest`; 0 if it is missing. Raises TableError."""
    position = batch.numbers(column).astype(np.float64)
    present = ~np.isnan(position) & (position >= 1)
    clipped = np.clip(np.nan_to_num(position), 1, largest)
    return np.where(present, clipped, 0).astype(np.int32)


def refuse_times(recipe: Recipe, impressions: Table) -> None:
    """Raise TableError for labels, weights and positions that are timestamps or dates.

    A table gives those as milliseconds since 1970, which are no such number. The types of the files tell, so that it
    is found whenever data is opened, also if it is encoded already.
    """
    roles = dict.fromkeys(map(source_column, recipe.label_columns), "label")
    roles |= dict.fromkeys(recipe.data.weight_columns, "weight")
    if recipe.position:
        roles[recipe.position.column] = "position"
    for file in impressions.files:
        for column, role in roles.items():
            kind = file.types.get(column)
            if kind is not None and family(kind) == "time":
                problem = f"{role} '{column}' must be a number, not a time; the column has the type {kind}"
                raise TableError(problem, file.path, impressions.role, column, name=file.name)
