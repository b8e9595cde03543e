"""Fits the encoding on the training part only: how often each key occurs, and the mean and deviation of the numerics.

All counts are by training impressions: a user's keys count once per impression of the user, a behaviour's keys once per
impression that sees the behaviour.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from features import RowLayout
from features.schemas.schema import COUNTER, DERIVED
from features.within_request import WITHIN
from models.data.encoding.encoding import (
    CANDIDATE,
    Encoding,
    NumericStats,
    behaviour_age_s,
    bins_of,
    log1p_columns,
    no_edges,
    quantile_edges,
    standardisation,
    transformed,
)
from models.data.encoding.packed import PackedPart, item_key_columns, plain_numbers
from models.data.encoding.vocabulary import (
    CountingSpace,
    behaviour_column_vocabularies,
    fit_vocabulary,
    key_column_vocabularies,
    vocabulary_names,
)
from models.recipe import Recipe

CHUNK = 1 << 16


def fit_encoding(recipe: Recipe, part: PackedPart, folder: Path) -> Encoding:
    """Fit the vocabulary and the standardisation on the training part; `folder` is for what does not fit into memory.

    Raises RecipeError for a vocabulary beyond the limit of memory.
    """
    schema = recipe.features
    # Count how often each row is read in training, so that frequent rows weigh as much as they do there.
    of_user = np.bincount(part.user, minlength=len(part.users))
    of_item = np.bincount(part.item, minlength=len(part.items))
    views = np.zeros(0, dtype=np.int64) if part.views is None else part.views
    seen = np.zeros(len(part.items), dtype=np.int64)
    if part.events is not None:
        for chunk in _chunks(len(part.events)):
            seen += np.bincount(part.events["item"][chunk], weights=views[chunk], minlength=len(part.items)).astype(
                np.int64
            )
    # Fit on these counts.
    vocabulary = fit_vocabulary(
        vocabulary_names(schema),
        _counted(recipe, part, of_user, of_item, seen, views),
        recipe.model.embedding.min_count,
        recipe.model.embedding.hash_buckets,
        CountingSpace(folder, recipe.data.memory_bytes, _most_counted(recipe, part)),
        recipe.model.embedding.hashes,
    )
    numerics = {
        "user": _stats(part.users, of_user, recipe, "user"),
        "item": _stats(part.items, of_item, recipe, "item"),
        "context": _stats(part.context, np.ones(len(part.context), np.int64), recipe, "context"),
        "behaviour": _behaviour_stats(recipe, part, seen),
    }
    # Numbers that belong to an impression instead of a row.
    if recipe.features.candidate:
        once = np.ones(len(part.candidate), np.int64)
        numerics[CANDIDATE] = _stats(part.candidate, once, recipe, CANDIDATE)
    if part.within is not None:
        numerics[WITHIN] = _within_stats(recipe, part.within)
    if part.counters is not None:
        rows = part.counters.view([("numerics", "<f4", (part.counters.shape[1],))])[:, 0]
        numerics[COUNTER] = _stats(rows, np.ones(len(rows), np.int64), recipe, COUNTER)
    if part.derived is not None:
        numerics[DERIVED] = _stats(part.derived, np.ones(len(part.derived), np.int64), recipe, DERIVED)
    return Encoding(schema, vocabulary, numerics)


def _within_stats(recipe: Recipe, within: np.ndarray) -> NumericStats:
    """Statistics of the comparison of items within a request; its columns have no bins of their own and get the
    default.
    """
    section = recipe.model.embedding.numerics
    plain = np.zeros(within.shape[1], dtype=bool)
    counts = np.ones(len(within), np.int64)
    totals = np.zeros((3, len(plain)))
    for chunk in _chunks(len(within)):
        totals += _sums(within[chunk], counts[chunk], plain)
    edges = no_edges(len(plain))
    if section.bins:
        ends = section.encoding == "piecewise_linear"
        edges = quantile_edges(within, counts, [section.bins] * len(plain), ends=ends)
    return standardisation(totals[0], totals[1], totals[2], edges)


def _chunks(n: int) -> Iterator[slice]:
    for begin in range(0, n, CHUNK):
        yield slice(begin, min(begin + CHUNK, n))


def _counted(
    recipe: Recipe, part: PackedPart, of_user: np.ndarray, of_item: np.ndarray, seen: np.ndarray, views: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `(keys, counts)` of every key column, chunk by chunk; equal keys within a chunk are added up."""
    schema = recipe.features
    hashed = recipe.model.embedding.hash_buckets
    for group, rows, counts in (
        ("user", part.users, of_user),
        ("item", part.items, of_item),
        ("context", part.context, np.ones(len(part.context), np.int64)),
        ("candidate", part.candidate, np.ones(len(part.candidate), np.int64)),
        (DERIVED, part.derived, None),
    ):
        if rows is None:
            continue
        columns = _counted_columns(key_column_vocabularies(schema.group(group)), hashed)
        for chunk in _chunks(len(rows)):
            once = np.ones(len(rows[chunk]), np.int64)
            yield from _summed(rows["keys"][chunk][:, columns], once if counts is None else counts[chunk])
    if part.events is None:
        return
    names = behaviour_column_vocabularies(schema)
    sequence_columns = item_key_columns(recipe)[_counted_columns(names[:-2], hashed)]
    for chunk in _chunks(len(part.items)):
        yield from _summed(part.items["keys"][chunk][:, sequence_columns], seen[chunk])
    for field, name in (("action", names[-2]), ("scene", names[-1])):
        if name not in hashed:
            for chunk in _chunks(len(part.events)):
                yield from _summed(part.events[field][chunk][:, None], views[chunk])


def _most_counted(recipe: Recipe, part: PackedPart) -> int:
    """An upper bound of what `_counted` yields: all keys of all rows."""
    behaviours = len(part.items) * len(item_key_columns(recipe)) + (0 if part.events is None else 2 * len(part.events))
    groups = (part.users, part.items, part.context, part.candidate, part.derived)
    return behaviours + sum(rows["keys"].size for rows in groups if rows is not None)


def _counted_columns(names: Sequence[str], hashed: Collection[str]) -> np.ndarray:
    """The positions of the columns whose vocabulary is not hashed, int64; `names`: the vocabulary of each column."""
    return np.array([i for i, name in enumerate(names) if name not in hashed], dtype=np.int64)


def _summed(keys: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if keys.size:
        distinct, inverse = np.unique(keys, return_inverse=True)
        totals = np.bincount(inverse.ravel(), weights=np.repeat(counts, keys.shape[1]), minlength=len(distinct))
        yield distinct[totals > 0], totals[totals > 0]


def _sums(values: np.ndarray, counts: np.ndarray, log1p: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """Count, sum and sum of squares of the present values minus `shift`, each weighted, float64 `[3, N]`."""
    numbers = transformed(values, log1p) - shift
    weight = np.where(np.isnan(numbers), 0, counts[:, None])
    numbers = np.nan_to_num(numbers, nan=0.0)
    return np.stack([weight.sum(0), (weight * numbers).sum(0), (weight * numbers**2).sum(0)])


def _stats(rows: np.ndarray, counts: np.ndarray, recipe: Recipe, group: str) -> NumericStats:
    log1p = log1p_columns(recipe.features, group)
    numerics = plain_numbers(recipe.features.group(group), rows["numerics"])
    shift = _first_present(numerics, counts, log1p)
    totals = np.zeros((3, len(log1p)))
    for chunk in _chunks(len(rows)):
        totals += _sums(numerics[chunk], counts[chunk], log1p, shift)
    return standardisation(totals[0], totals[1], totals[2], _edges(numerics, counts, recipe, group), shift)


def _edges(numerics: np.ndarray, counts: np.ndarray, recipe: Recipe, group: str) -> np.ndarray:
    """The edges of the group's bins, float32 `[N, E]`; E is 0 if no column has bins."""
    section = recipe.model.embedding.numerics
    bins = bins_of(recipe.features, group, section.bins)
    if not any(bins):
        return no_edges(len(bins))
    return quantile_edges(numerics, counts, bins, ends=section.encoding == "piecewise_linear")


def _first_present(numerics: np.ndarray, counts: np.ndarray, log1p: np.ndarray) -> np.ndarray:
    """The first counted value of each column after its transform, float64 `[N]`; 0 if there is none.

    Any value of the column serves as the shift: it is about as near to the mean as other values, and a constant column
    becomes exactly 0.
    """
    out = np.zeros(len(log1p))
    missing = np.ones(len(log1p), dtype=bool)
    for chunk in _chunks(len(numerics)):
        present = ~np.isnan(numerics[chunk]) & (counts[chunk] > 0)[:, None]
        here = missing & present.any(axis=0)
        out[here] = transformed(numerics[chunk], log1p)[present.argmax(axis=0)[here], here]
        missing &= ~here
        if not missing.any():
            break
    return out


def _behaviour_stats(recipe: Recipe, part: PackedPart, seen: np.ndarray) -> NumericStats:
    """Statistics of the items' numerics, weighted by the number of sequences that contain them, and of the age."""
    if part.events is None:
        return NumericStats(np.zeros(0, np.float32), np.zeros(0, np.float32), no_edges(0))
    log1p = log1p_columns(recipe.features, "behaviour")
    names = [f.name for f in recipe.features.behaviour_item_features]
    layout = RowLayout(recipe.features.item)
    columns = layout.number_columns(name for name in names if name in layout.numeric_columns)
    shift = _first_present(part.items["numerics"][:, columns], seen, log1p[:-1])
    items = np.zeros((3, len(columns)))
    for chunk in _chunks(len(part.items)):
        items += _sums(part.items["numerics"][chunk][:, columns], seen[chunk], log1p[:-1], shift)
    ages = np.zeros((3, 1))
    for begin in range(0, len(part.user), 4096):
        start = part.start[begin : begin + 4096]
        end = part.end[begin : begin + 4096]
        length = end - start
        place = np.repeat(start - np.concatenate([[0], np.cumsum(length)[:-1]]), length) + np.arange(length.sum())
        age_s = behaviour_age_s(np.repeat(part.time[begin : begin + 4096], length), part.events["time"][place])
        ages += _sums(age_s[:, None], np.ones(len(age_s), np.int64), log1p[-1:])
    edges = _edges(_with_age(part.items["numerics"][:, columns]), seen, recipe, "behaviour")
    totals = np.concatenate([items, ages], axis=1)
    return standardisation(totals[0], totals[1], totals[2], edges, np.append(shift, 0.0))


def _with_age(numerics: np.ndarray) -> np.ndarray:
    """Append a column for the age, which has no bins."""
    return np.concatenate([numerics, np.full((len(numerics), 1), np.nan, np.float32)], axis=1)
