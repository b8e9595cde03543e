"""The columns of a recipe's features of users, items, contexts and candidates in the form that simple models read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from features import RowLayout
from features.schemas.schema import COUNTER
from models.data.cache import Data
from models.data.encoding.encoding import log1p_columns, transformed
from models.data.encoding.packed import plain_numbers
from models.data.encoding.vocabulary import MISSING_ROW
from models.training.diagnostics.features import group_rows

TREE_VALUES = 254  # categories that a histogram tree tells apart, one more stands for all others


@dataclass(frozen=True)
class FeatureColumns:
    """`numbers` float64 `[n, N]` after transforms, NaN where missing; `ids`: rows `[n, values]` by feature."""

    numbers: np.ndarray
    ids: dict[str, np.ndarray]


def feature_columns(
    data: Data,
    part: str,
    picked: np.ndarray,
    groups: Sequence[str] = ("user", "item", "context", "candidate", "derived"),
) -> FeatureColumns:
    """The columns of the impressions at `picked`."""
    numbers = [np.zeros((len(picked), 0))]
    ids = {}
    for group in groups:
        schema = data.encoding.schema
        layout = RowLayout(schema.group(group))
        rows, numerics = group_rows(data, group, part, picked)
        numbers.append(transformed(plain_numbers(layout.features, numerics), log1p_columns(schema, group)))
        numbers += [numerics[:, columns].astype(np.float64) for columns in layout.vector_columns.values()]
        if group == "item" and (within := data.parts[part].within) is not None:
            numbers.append(within[picked].astype(np.float64))
        if group == "item" and (counters := data.parts[part].counters) is not None:
            numbers.append(transformed(counters[picked], log1p_columns(schema, COUNTER)))
        for feature in layout.features:
            if feature.name in layout.key_columns:
                ids[f"{group}.{feature.name}"] = rows[:, layout.key_columns[feature.name]]
    return FeatureColumns(np.concatenate(numbers, axis=1), ids)


class LinearInputs:
    """Columns of a linear model: standardised numbers with a flag for missing ones, one column per id seen in
    training.
    """

    def __init__(self, train: FeatureColumns) -> None:
        with np.errstate(all="ignore"):
            present = np.where(np.isnan(train.numbers), 0, 1).sum(0)
            self.mean = np.nansum(train.numbers, 0) / np.maximum(present, 1)
            deviation = np.sqrt(np.nansum((train.numbers - self.mean) ** 2, 0) / np.maximum(present, 1))
        self.deviation = np.where(deviation > 0, deviation, 1.0)
        self.known = {name: np.setdiff1d(rows, [MISSING_ROW]) for name, rows in train.ids.items()}

    def matrix(self, columns: FeatureColumns) -> Any:
        """A sparse matrix `[n, columns]`."""
        missing = np.isnan(columns.numbers)
        scaled = np.where(missing, 0.0, (columns.numbers - self.mean) / self.deviation)
        blocks = [sparse.csr_matrix(scaled), sparse.csr_matrix(missing.astype(float))]
        return sparse.hstack([*blocks, *self._one_hot(columns)], format="csr")

    def _one_hot(self, columns: FeatureColumns) -> Iterator[Any]:
        for name, known in self.known.items():
            rows = columns.ids[name]
            if not len(known):
                continue
            place = np.minimum(np.searchsorted(known, rows), len(known) - 1)
            row, slot = np.nonzero(known[place] == rows)
            ones = np.ones(len(row))
            yield sparse.csr_matrix((ones, (row, place[row, slot])), shape=(len(rows), len(known)))


class TreeInputs:
    """Columns of a histogram tree: numbers unchanged, ids as the codes of the most frequent ones."""

    def __init__(self, train: FeatureColumns) -> None:
        self.frequent = {}
        for name, rows in train.ids.items():
            values, counts = np.unique(rows[rows != MISSING_ROW], return_counts=True)
            self.frequent[name] = np.sort(values[np.argsort(-counts, kind="stable")[:TREE_VALUES]])
        categories = sum(rows.shape[1] for rows in train.ids.values())
        self.categorical = np.r_[np.zeros(train.numbers.shape[1], bool), np.ones(categories, bool)]

    def matrix(self, columns: FeatureColumns) -> np.ndarray:
        """`[n, columns]` float64, NaN where missing."""
        blocks = [columns.numbers]
        for name, frequent in self.frequent.items():
            rows = columns.ids[name]
            codes = np.full(rows.shape, float(len(frequent)))
            if len(frequent):
                place = np.minimum(np.searchsorted(frequent, rows), len(frequent) - 1)
                codes = np.where(frequent[place] == rows, place, codes)
            blocks.append(np.where(rows == MISSING_ROW, np.nan, codes))
        return np.concatenate(blocks, axis=1)
