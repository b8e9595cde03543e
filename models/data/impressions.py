"""Owns encoding the impressions: one pass over the table, each part's columns appended to its own files."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from features import MISSING_KEY, MultiCategorical, RowLayout, keys_of_column
from models.data.arrays import ArrayFile
from models.data.entities import Entities, pack
from models.data.split import PARTS, part_of, split_columns
from models.data.tables import Columns, Table, numbers, times_ms
from models.recipe.recipe import Recipe, RecipeError, source_column


@dataclass
class Counts:
    """Impressions per part, those in none, and how many repeat another's user, item and time."""

    parts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    unused: int = 0
    repeated: int = 0


def encode_impressions(table: Table, recipe: Recipe, users: Entities, items: Entities, folder: Path) -> Counts:
    """Append every used impression to `folder/<part>.<column>`. Raises RecipeError for what does not fit the recipe."""
    layout = RowLayout(recipe.features.context)
    wanted = _wanted(recipe)
    table.require(wanted)
    lists = frozenset(f.name for f in layout.features if isinstance(f, MultiCategorical))
    counts = Counts()
    seen = []
    dtypes: dict[str, DTypeLike] = {
        "user": np.int32,
        "item": np.int32,
        "time": np.int64,
        "context": layout.dtype,
        "request": np.int64,
        "labels": np.float32,
        "position": np.int32,
        "cross": np.int64,
    }
    with ExitStack() as stack:
        files = {
            (part, name): stack.enter_context(ArrayFile(folder / f"{part}.{name}", dtype))
            for part in PARTS
            for name, dtype in dtypes.items()
        }
        for columns, _ in table.batches(list(wanted), lists):
            part = part_of(recipe.data, columns, table)
            counts.unused += int((part < 0).sum())
            used = np.flatnonzero(part >= 0)
            encoded = dict(
                _encoded({name: v[used] for name, v in columns.items()}, len(used), recipe, layout, users, items, table)
            )
            seen.append(_fingerprint(encoded))
            for i, name in enumerate(PARTS):
                of_part = part[used] == i
                counts.parts[name] += int(of_part.sum())
                for column, values in encoded.items():
                    files[name, column].append(values[of_part])
    every = np.concatenate([np.zeros(0, np.uint64), *seen])
    counts.repeated = len(every) - len(np.unique(every))
    _refuse_empty(counts)
    return counts


def _wanted(recipe: Recipe) -> dict[str, str]:
    data = recipe.data
    wanted = {data.user_id: "data.user_id", data.item_id: "data.item_id", data.time_ms: "data.time_ms"}
    wanted |= split_columns(data)
    if data.request_id:
        wanted[data.request_id] = "data.request_id"
    wanted |= {f.name: "features.context" for f in recipe.features.context}
    wanted |= dict.fromkeys(map(source_column, recipe.label_columns), "a task or extra_evaluations")
    if recipe.position:
        wanted[recipe.position.column] = "position.column"
        if recipe.position.cross:
            wanted[recipe.position.cross] = "position.cross"
    return wanted


def _encoded(
    columns: Columns, n: int, recipe: Recipe, layout: RowLayout, users: Entities, items: Entities, table: Table
) -> Iterator[tuple[str, np.ndarray]]:
    data = recipe.data
    yield "user", users.index_of(columns[data.user_id], table, data.user_id)
    yield "item", items.index_of(columns[data.item_id], table, data.item_id)
    yield "time", times_ms(columns[data.time_ms], table, data.time_ms)
    if data.request_id:
        yield "request", _requests(columns[data.request_id], data.request_id, table)
    yield "context", pack(layout, {f.name: columns[f.name] for f in layout.features}, n, table)
    labels = [_label(columns[source_column(name)], name, recipe, table) for name in recipe.label_columns]
    yield "labels", np.stack(labels, axis=1)
    if recipe.position:
        position = numbers(columns[recipe.position.column], table, recipe.position.column)
        present = ~np.isnan(position) & (position >= 1)
        yield (
            "position",
            np.where(present, np.clip(np.nan_to_num(position), 1, recipe.position.max_position), 0).astype(np.int32),
        )
        cross = recipe.position.cross
        yield "cross", np.zeros(n, np.int64) if cross is None else keys_of_column(cross, columns[cross])


def _requests(values: np.ndarray, name: str, table: Table) -> np.ndarray:
    """A key per request, int64 `[n]`. Raises RecipeError where an impression has none."""
    keys = keys_of_column(name, values)
    if (keys == MISSING_KEY).any():
        raise RecipeError(
            f"{table.path.name} ({table.role}): column '{name}' (data.request_id) is empty in some rows of the split"
        )
    return keys


def _label(values: np.ndarray, name: str, recipe: Recipe, table: Table) -> np.ndarray:
    label = np.array([bool(v) for v in values], float) if values.dtype.kind == "b" else numbers(values, table, name)
    if source_column(name) != name:
        label = np.log1p(np.where(label >= 0, label, np.nan))
    allowed = np.isfinite(label) if name in recipe.value_columns else np.isin(label, (0, 1))
    if not allowed.all():
        bad = values[~allowed].tolist()[0]
        what = "a finite number" if name in recipe.value_columns else "0 or 1"
        raise RecipeError(
            f"{table.path.name} ({table.role}): label '{name}' must be {what} in every row of the split, found {bad!r}"
        )
    return label.astype(np.float32)


def _fingerprint(encoded: dict[str, np.ndarray]) -> np.ndarray:
    """A hash per impression of its user, item and time, uint64 `[n]`."""
    mixed = np.zeros(len(encoded["user"]), dtype=np.uint64)
    for name in ("user", "item", "time"):
        mixed = (mixed ^ encoded[name].astype(np.int64).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _refuse_empty(counts: Counts) -> None:
    for part, n in counts.parts.items():
        if n == 0:
            found = ", ".join(f"{name} {count:,}" for name, count in counts.parts.items())
            raise RecipeError(
                f"data.split: the {part} part is empty (impressions: {found}, in no part {counts.unused:,}); check data.split.{part}"
            )
