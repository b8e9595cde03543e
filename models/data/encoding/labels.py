"""Reads what impressions are trained with and no request has: labels, weights and positions."""

import numpy as np

from models.recipe import Recipe
from models.recipe.sections.data import source_column
from tables import Batch
from tables.types import family


def label_of(batch: Batch, name: str, recipe: Recipe) -> np.ndarray:
    """The label of each impression, float32 `[n]`. Raises TableError for one that a task cannot learn."""
    column = source_column(name)
    _refuse_times(batch, column, "label")
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
    _refuse_times(batch, column, "weight")
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
    _refuse_times(batch, column, "position")
    position = batch.numbers(column).astype(np.float64)
    present = ~np.isnan(position) & (position >= 1)
    clipped = np.clip(np.nan_to_num(position), 1, largest)
    return np.where(present, clipped, 0).astype(np.int32)


def _refuse_times(batch: Batch, column: str, role: str) -> None:
    """Raise TableError for timestamps and dates: a table gives them as milliseconds, which are no such number."""
    kind = batch.types[column]
    if family(kind) == "time":
        raise batch.error(column, f"{role} '{column}' must be a number, not a time; the column has the type {kind}")
