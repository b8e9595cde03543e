"""The packed rows of one part, and which columns of an item row a behaviour carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features import Feature, RowLayout
from models.data.arrays import read_array
from models.recipe import Recipe


@dataclass(frozen=True)
class PackedPart:
    """One part with packed rows: all users and items, the part's contexts and candidates `[n]`, events (None without
    behaviours).

    `views` int64 `[events]`: the number of training impressions that see each event; None without behaviours.
    `within` float32 `[n, 2K]` compares the items of each request; None if the schema compares none.
    `counters` float32 `[n, K]`: the numbers of the schema's counters; None if it has none.
    `derived` `[n]`: packed rows of the derived features; None before they are computed, and if there are none.
    """

    users: np.ndarray
    items: np.ndarray
    context: np.ndarray
    candidate: np.ndarray
    events: np.ndarray | None
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    start: np.ndarray
    end: np.ndarray
    views: np.ndarray | None = None
    within: np.ndarray | None = None
    counters: np.ndarray | None = None
    derived: np.ndarray | None = None


def item_key_columns(recipe: Recipe) -> np.ndarray:
    """The key columns of an item row that a behaviour carries, in its order, int64."""
    layout = RowLayout(recipe.features.item)
    columns = [
        np.arange(layout.key_width)[layout.key_columns[f.name]]
        for f in recipe.features.behaviour_item_features
        if f.name in layout.key_columns
    ]
    return np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)


def item_numeric_columns(recipe: Recipe) -> np.ndarray:
    """The columns of an item row's numerics that a behaviour carries, in its order, int64; those of vectors too."""
    layout = RowLayout(recipe.features.item)
    return layout.number_columns(f.name for f in recipe.features.behaviour_item_features)


def plain_numbers(features: Sequence[Feature], numerics: np.ndarray) -> np.ndarray:
    """The single numbers of rows whose numerics are `[n, N]`, without the columns of vectors."""
    layout = RowLayout(features)
    if not layout.vector_columns:
        return numerics
    return numerics[:, list(layout.numeric_columns.values())]


def packed_group(recipe: Recipe, folder: Path, part: str, group: str, n: int) -> np.ndarray:
    """The packed rows `[n]` of a group that impressions have a row of."""
    layout = RowLayout(recipe.features.group(group))
    if not layout.dtype.itemsize:
        return layout.empty(n)
    return read_array(folder / f"{part}.{group}", layout.dtype)
