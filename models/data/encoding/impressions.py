"""Encodes the impressions in one pass over the table, and appends each part's columns to its own files."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from features import MISSING_KEY, keys_of_column
from features.layouts import Layouts
from features.times import UNKNOWN_MS, latest_now_ms
from models.data.arrays import ArrayFile
from models.data.encoding.entities import Entities
from models.data.encoding.variation import ContextVariation
from models.data.split import PARTS, Splitter, split_columns
from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import TimeSplit, source_column
from tables import Batch, Table, packed_rows
from tables.packing import list_columns


@dataclass
class Counts:
    """Impressions per part, those in none, and how many have the same user, item and time as another one.

    `unmatched`: warnings about values that the split lists and no row has. `context_variation`: in which share of the
    requests each context feature varies.
    """

    parts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    unused: int = 0
    repeated: int = 0
    unmatched: list[str] = field(default_factory=list)
    context_variation: dict[str, Any] = field(default_factory=dict)


def encode_impressions(table: Table, recipe: Recipe, users: Entities, items: Entities, folder: Path) -> Counts:
    """Append every used impression to `folder/<part>.<column>`. Raises RecipeError for data that does not fit the
    recipe.
    """
    layouts = Layouts.of(recipe.features)
    layout = layouts.context
    needed = _needed(recipe)
    for column, key in needed.items():
        everywhere = key in ("data.user_id", "data.item_id", "data.time_ms")
        table.require({column: key}, f"; {key} names the column in all tables" if everywhere else "")
    splitter = Splitter(recipe.data)
    variation = ContextVariation(layout, by_request=recipe.data.request_id is not None)
    counts = Counts()
    seen = []
    dtypes: dict[str, DTypeLike] = {
        "user": np.int32,
        "item": np.int32,
        "time": np.int64,
        "context": layout.dtype,
        "candidate": layouts.candidate.dtype,
        "request": np.int64,
        "labels": np.float32,
        "position": np.int32,
        "cross": np.int64,
    }
    # One file per part and column, so that a part is read without the others.
    with ExitStack() as stack:
        files = {
            (part, name): stack.enter_context(ArrayFile(folder / f"{part}.{name}", dtype))
            for part in PARTS
            for name, dtype in dtypes.items()
        }
        for batch in table.batches(list(needed), list_columns(layout) | list_columns(layouts.candidate)):
            part = splitter.part_of(batch)
            counts.unused += int((part < 0).sum())
            used = np.flatnonzero(part >= 0)
            encoded = dict(_encoded(batch.selection(used), recipe, layouts, users, items))
            seen.append(_fingerprint(encoded))
            variation.add(encoded)
            for i, name in enumerate(PARTS):
                of_part = part[used] == i
                counts.parts[name] += int(of_part.sum())
                for column, values in encoded.items():
                    files[name, column].append(values[of_part])
    # Duplicates are counted and stay: the same item may be shown twice.
    every = np.concatenate([np.zeros(0, np.uint64), *seen])
    counts.repeated = len(every) - len(np.unique(every))
    counts.unmatched = splitter.unmatched()
    counts.context_variation = variation.described()
    _refuse_empty(counts)
    return counts


def _needed(recipe: Recipe) -> dict[str, str]:
    data = recipe.data
    needed = {data.user_id: "data.user_id", data.item_id: "data.item_id", data.time_ms: "data.time_ms"}
    if data.served:
        needed |= {data.user_row: "data.served", data.item_row: "data.served"}
    needed |= split_columns(data)
    if data.request_id:
        needed[data.request_id] = "data.request_id"
    needed |= {f.name: "features.context" for f in recipe.features.context}
    needed |= {f.name: "features.candidate" for f in recipe.features.candidate}
    needed |= dict.fromkeys(map(source_column, recipe.label_columns), "a task or extra_evaluations")
    if recipe.position:
        needed[recipe.position.column] = "position.column"
        if recipe.position.cross:
            needed[recipe.position.cross] = "position.cross"
    return needed


def _encoded(
    batch: Batch, recipe: Recipe, layouts: Layouts, users: Entities, items: Entities
) -> Iterator[tuple[str, np.ndarray]]:
    data = recipe.data
    yield "user", users.index_of(batch, data.user_row)
    yield "item", items.index_of(batch, data.item_row)
    yield "time", times_of(batch, recipe)
    if data.request_id:
        yield "request", _requests(batch, data.request_id)
    yield "context", packed_rows(layouts.context, batch, served=data.served)
    yield "candidate", packed_rows(layouts.candidate, batch, served=data.served)
    labels = [_label(batch, name, recipe) for name in recipe.label_columns]
    yield "labels", np.stack(labels, axis=1)
    if recipe.position:
        position = batch.numbers(recipe.position.column).astype(np.float64)
        present = ~np.isnan(position) & (position >= 1)
        clipped = np.clip(np.nan_to_num(position), 1, recipe.position.max_position)
        yield "position", np.where(present, clipped, 0).astype(np.int32)
        cross = recipe.position.cross
        if cross is None:
            yield "cross", np.zeros(len(batch), np.int64)
        else:
            yield "cross", batch.keys(cross, partial(keys_of_column, cross))


def _requests(batch: Batch, column: str) -> np.ndarray:
    """Return a key per request, int64 `[n]`. Raises TableError if an impression has no request."""
    keys = batch.keys(column, partial(keys_of_column, column))
    missing = np.flatnonzero(keys == MISSING_KEY)
    if len(missing):
        message = f"column '{column}' (data.request_id) is empty in some rows of the split"
        raise batch.error(column, message, int(missing[0]))
    return keys


def times_of(batch: Batch, recipe: Recipe) -> np.ndarray:
    """Return the times of impressions. They may be unknown if nothing depends on them (no behaviours, no counters, no
    split by time).
    """
    if recipe.features.behaviour is not None or recipe.features.counters or isinstance(recipe.data.split, TimeSplit):
        return batch.times(recipe.data.time_ms, latest_now_ms())
    return batch.times(recipe.data.time_ms, bounded=False, missing=UNKNOWN_MS)


def _label(batch: Batch, name: str, recipe: Recipe) -> np.ndarray:
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


def _fingerprint(encoded: dict[str, np.ndarray]) -> np.ndarray:
    """A hash per impression of its user, item and time, uint64 `[n]`."""
    mixed = np.zeros(len(encoded["user"]), dtype=np.uint64)
    for name in ("user", "item", "time"):
        mixed = (mixed ^ encoded[name].astype(np.int64).view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _refuse_empty(counts: Counts) -> None:
    if not counts.unused and not any(counts.parts.values()):
        raise RecipeError("data.impressions: the table has no rows", ("data", "impressions"))
    for part, n in counts.parts.items():
        if n == 0:
            parts = ", ".join(f"{name} {count:,}" for name, count in counts.parts.items())
            raise RecipeError(
                f"data.split: the {part} part is empty (impressions: {parts}, in no part {counts.unused:,}); "
                f"check data.split.{part}{''.join(f'; {warning}' for warning in counts.unmatched)}",
                ("data", "split", part),
            )
