"""Histograms of the training part by feature, which a bundle carries, so that served rows can be compared with them.

The last bin of a histogram counts impressions without a value. A number has the bins between its `borders` (the deciles
of training), a vector those of its norm; an id has a bin for each of its most frequent `keys`, then one for all others.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from features import MISSING_KEY, Numeric, RowLayout, Vector
from features.statistics import BINS
from models.data.cache import Data
from models.data.encoding.vocabulary import MISSING_ROW
from models.training.diagnostics.features import MOST_IMPRESSIONS, MOST_VALUES, group_rows
from models.training.diagnostics.sampling import drawn

COUNTERS = "counters"
BEHAVIOURS = "behaviours"


def number_counts(values: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """The numbers `[n]` per bin, int64 `[len(borders) + 2]`."""
    present = values[~np.isnan(values)]
    bins = np.bincount(np.searchsorted(borders, present, side="right"), minlength=len(borders) + 1)
    return np.append(bins, len(values) - len(present))


def key_counts(keys: np.ndarray, frequent: np.ndarray) -> np.ndarray:
    """The values of ids `[n, values]` per bin, int64 `[len(frequent) + 2]`; `frequent` ascends."""
    present = keys[keys != MISSING_KEY]
    bins = np.full(len(present), len(frequent))
    if len(frequent):
        place = np.minimum(np.searchsorted(frequent, present), len(frequent) - 1)
        bins = np.where(frequent[place] == present, place, bins)
    counts = np.bincount(bins, minlength=len(frequent) + 1)
    return np.append(counts, int((keys == MISSING_KEY).all(axis=1).sum()))


def training_histograms(data: Data, seed: int) -> list[dict[str, Any]]:
    """For each feature `{"group", "feature", "impressions", "borders" or "keys", "counts"}`, as plain numbers for JSON.

    At most 50,000 impressions are drawn. Behaviours are counted by their number, counters as numbers.
    """
    part = data.parts["train"]
    picked = drawn(len(part), MOST_IMPRESSIONS, seed)
    histograms = [*_of_groups(data, picked)]
    if part.counters is not None:
        columns = part.counters[picked]
        names = [counter.name for counter in data.encoding.schema.counters]
        histograms += [_of_numbers(COUNTERS, name, columns[:, i]) for i, name in enumerate(names)]
    if data.behaviours is not None and data.encoding.schema.behaviour is not None:
        most = data.encoding.schema.behaviour.max_length
        lengths = np.minimum(part.end[picked] - part.start[picked], most)
        histograms.append(_of_numbers(BEHAVIOURS, "length", lengths.astype(np.float64)))
    return histograms


def _of_groups(data: Data, picked: np.ndarray) -> Iterator[dict[str, Any]]:
    vocabulary = data.encoding.vocabulary
    # The key of each embedding row; an unknown row stands for many keys, of which none is frequent.
    key_of_row = np.full(vocabulary.n_rows, MISSING_KEY, dtype=np.int64)
    key_of_row[vocabulary.rows] = vocabulary.keys
    for group in ("user", "item", "context", "candidate"):
        layout = RowLayout(data.encoding.schema.group(group))
        rows, numerics = group_rows(data, group, "train", picked)
        for feature in layout.features:
            if isinstance(feature, Numeric | Vector):
                yield _of_numbers(group, feature.name, layout.measured(feature, numerics))
            else:
                yield _of_ids(group, feature.name, rows[:, layout.key_columns[feature.name]], key_of_row)


def _of_numbers(group: str, name: str, values: np.ndarray) -> dict[str, Any]:
    present = values[~np.isnan(values)]
    borders = np.unique(np.quantile(present, np.arange(1, BINS) / BINS)) if len(present) else np.zeros(0)
    described = {"group": group, "feature": name, "impressions": len(values), "borders": borders.tolist()}
    return described | {"counts": number_counts(values, borders).tolist()}


def _of_ids(group: str, name: str, rows: np.ndarray, key_of_row: np.ndarray) -> dict[str, Any]:
    # A code of a vocabulary with two hashes stands for many keys, as an unknown row does.
    keys = key_of_row[np.where(rows < len(key_of_row), rows, MISSING_ROW)]
    values, counts = np.unique(keys[keys != MISSING_KEY], return_counts=True)
    frequent = np.sort(values[np.argsort(-counts, kind="stable")[:MOST_VALUES]])
    # Unknown ids have values too.
    missing = int((rows == MISSING_ROW).all(axis=1).sum())
    present = int((rows != MISSING_ROW).sum())
    of_frequent = key_counts(keys, frequent)[: len(frequent)]
    binned = [*of_frequent.tolist(), present - int(of_frequent.sum()), missing]
    return {"group": group, "feature": name, "impressions": len(rows), "keys": frequent.tolist(), "counts": binned}
