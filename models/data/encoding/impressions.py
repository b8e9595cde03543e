"""Encodes the impressions: the columns of each file by itself, then each part's columns into files of its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from features import MISSING_KEY, keys_of_column
from features.keys import sorted_distinct
from features.layouts import Layouts
from features.times import UNKNOWN_MS, latest_now_ms
from models.data.arrays import ArrayFile
from models.data.encoding.entities import Entities
from models.data.encoding.labels import label_of, position_of, weight_of
from models.data.encoding.variation import ContextVariation
from models.data.split import PARTS, SplitParts, split_columns
from models.data.stored.buckets import Buckets, bucket_count
from models.data.stored.partition import EncodedFile
from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import TimeSplit, source_column
from tables import Batch, packed_rows

_FACTOR = np.int64(0x2545F4914F6CDD1D)  # any odd number with mixed bits
# A part has a file of each of these, empty if the recipe does not name the column.
_COLUMNS: Mapping[str, DTypeLike] = {"request": np.int64, "position": np.int32, "cross": np.int64}
_ROWS: Mapping[str, DTypeLike] = {"user": np.int32, "item": np.int32}
_FINGERPRINT_BYTES = 40  # in memory, while those of a bucket are sorted


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


def merge_impressions(
    partitions: Sequence[EncodedFile], recipe: Recipe, parts: SplitParts, users: Entities, items: Entities, folder: Path
) -> Counts:
    """Append every used impression to `folder/<part>.<column>`, with the rows of its user and item. Raises RecipeError
    for data that does not fit the recipe.
    """
    counts = Counts(unused=parts.unused, unmatched=parts.unmatched)
    variation = ContextVariation(Layouts.of(recipe.features).context, by_request=recipe.data.request_id is not None)
    types = impression_types(recipe)
    n_buckets = bucket_count(sum(p.rows for p in partitions), _FINGERPRINT_BYTES, recipe.data.memory_bytes // 4)
    # One file per part and column, so that a part is read without the others.
    with ExitStack() as stack:
        seen = stack.enter_context(Buckets(folder / "fingerprints", np.uint64, n_buckets))
        files = {
            (part, name): stack.enter_context(ArrayFile(folder / f"{part}.{name}", dtype))
            for part in PARTS
            for name, dtype in {**_COLUMNS, **types, **_ROWS}.items()
        }
        for part, encoded in _batches(partitions, parts, types, _widths(recipe), users, items):
            mixed = _fingerprint(encoded)
            seen.append(mixed, mixed % np.uint64(n_buckets))
            variation.add(encoded)
            for i, name in enumerate(PARTS):
                of_part = part == i
                counts.parts[name] += int(of_part.sum())
                for column, values in encoded.items():
                    files[name, column].append(values[of_part])
        # Duplicates are counted and stay: the same item may be shown twice.
        counts.repeated = sum(len(rows) - len(sorted_distinct(rows)) for rows in seen)
    counts.context_variation = variation.described()
    _refuse_empty(counts)
    return counts


def _batches(
    partitions: Sequence[EncodedFile],
    parts: SplitParts,
    types: Mapping[str, DTypeLike],
    widths: Mapping[str, int],
    users: Entities,
    items: Entities,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield the part of each row and the encoded columns, batch by batch as they were read; users and items are rows
    instead of keys.
    """
    first = 0
    for partition, rows_of_file in zip(partitions, parts.counts, strict=True):
        part = parts.parts[first : first + rows_of_file]
        part = part[part >= 0]
        first += rows_of_file
        arrays = {n: partition.array(n, t, widths.get(n)) for n, t in types.items()}
        user_ids = partition.ids("user")
        item_ids = partition.ids("item")
        begin = 0
        for rows in partition.batches:
            encoded = {name: values[begin : begin + rows] for name, values in arrays.items()}
            encoded["user"] = users.index_of(encoded["user"], user_ids)
            encoded["item"] = items.index_of(encoded["item"], item_ids)
            yield part[begin : begin + rows], encoded
            begin += rows


def impression_types(recipe: Recipe) -> dict[str, DTypeLike]:
    """The arrays of encoded impressions and their types; users and items are keys."""
    layouts = Layouts.of(recipe.features)
    types: dict[str, DTypeLike] = {"user": np.int64, "item": np.int64, "time": np.int64}
    if recipe.data.request_id:
        types["request"] = np.int64
    types |= {"context": layouts.context.dtype, "candidate": layouts.candidate.dtype, "labels": np.float32}
    if recipe.data.weight_columns:
        types["weights"] = np.float32
    if recipe.position:
        types |= {"position": np.int32, "cross": np.int64}
    return types


def _widths(recipe: Recipe) -> dict[str, int]:
    """The width of every array of several columns."""
    return {"labels": len(recipe.label_columns), "weights": len(recipe.data.weight_columns)}


def impression_columns(recipe: Recipe) -> dict[str, str]:
    """The columns that are read of impressions, and what names each."""
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
    needed |= dict.fromkeys(data.weight_columns, "data.weight or data.task_weights")
    if recipe.position:
        needed[recipe.position.column] = "position.column"
        needed |= dict.fromkeys(recipe.position.crossed, "position.cross")
    return needed


def encoded_columns(batch: Batch, recipe: Recipe, layouts: Layouts) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of a batch but its ids, encoded. Raises TableError."""
    data = recipe.data
    yield "time", times_of(batch, recipe)
    if data.request_id:
        yield "request", _requests(batch, data.request_id)
    yield "context", packed_rows(layouts.context, batch, served=data.served)
    yield "candidate", packed_rows(layouts.candidate, batch, served=data.served)
    labels = [label_of(batch, name, recipe) for name in recipe.label_columns]
    yield "labels", np.stack(labels, axis=1)
    if data.weight_columns:
        yield "weights", np.stack([weight_of(batch, column) for column in data.weight_columns], axis=1)
    if recipe.position:
        yield "position", position_of(batch, recipe.position.column, recipe.position.max_position)
        yield "cross", _crossed(batch, recipe.position.crossed)


def _crossed(batch: Batch, columns: tuple[str, ...]) -> np.ndarray:
    """A key per combination of the columns' values, int64 `[n]`; MISSING_KEY if all are missing. Raises TableError."""
    key = np.zeros(len(batch), np.int64)
    for column in columns:
        # An odd factor keeps combinations apart (a polynomial hash modulo 2^64); one column has its own keys.
        key = key * _FACTOR + batch.keys(column, partial(keys_of_column, column))
    return key


def _requests(batch: Batch, column: str) -> np.ndarray:
    """Return a key per request, int64 `[n]`. Raises TableError if an impression has no request."""
    keys = batch.keys(column, partial(keys_of_column, column))
    missing = np.flatnonzero(keys == MISSING_KEY)
    if len(missing):
        message = f"column '{column}' (data.request_id) is empty in some rows of the split"
        raise batch.error(column, message, int(missing[0]))
    return keys


def times_are_bounded(recipe: Recipe) -> bool:
    """Whether every impression needs a time: for its behaviours, its counters or its part."""
    split_by_time = isinstance(recipe.data.split, TimeSplit)
    return split_by_time or recipe.features.behaviour is not None or bool(recipe.features.counters)


def times_of(batch: Batch, recipe: Recipe) -> np.ndarray:
    """Return the times of impressions. They may be unknown if nothing depends on them (no behaviours, no counters, no
    split by time).
    """
    if times_are_bounded(recipe):
        return batch.times(recipe.data.time_ms, latest_now_ms())
    return batch.times(recipe.data.time_ms, bounded=False, missing=UNKNOWN_MS)


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
