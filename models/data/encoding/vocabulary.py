"""Maps 64-bit keys to embedding rows; fitted on the training part alone.

Row 0 is missing and padding (a zero vector that never trains). Each vocabulary has one unknown row; rows of known keys
follow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features import MISSING_KEY, Feature, FeatureSchema, MultiCategorical, Numeric

MISSING_ROW = 0


@dataclass(frozen=True)
class Vocabulary:
    """`keys` int64 `[V]` ascending and their `rows` int32 `[V]`; `unknown_rows` by vocabulary name; the total number
    `n_rows`.

    Keys are salted with their vocabulary's name, so one table holds all vocabularies.
    """

    keys: np.ndarray
    rows: np.ndarray
    unknown_rows: Mapping[str, int]

    @property
    def n_rows(self) -> int:
        return 1 + len(self.unknown_rows) + len(self.keys)

    def rows_of(self, keys: np.ndarray, unknown: np.ndarray) -> np.ndarray:
        """Embedding rows, int32 in the shape of `keys`; `unknown` int32 broadcasts and is each column's unknown row."""
        if not len(self.keys):
            return np.where(keys == MISSING_KEY, MISSING_ROW, unknown).astype(np.int32)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        rows = np.where(self.keys[place] == keys, self.rows[place], unknown)
        return np.where(keys == MISSING_KEY, MISSING_ROW, rows).astype(np.int32)


def grown(earlier: Vocabulary, fitted: Vocabulary) -> Vocabulary:
    """Add the keys of `fitted` that are new to an earlier vocabulary with the same names.

    Every earlier key keeps its row, also one that does not occur any more; the new keys get the rows after them.
    """
    new = np.setdiff1d(fitted.keys, earlier.keys, assume_unique=True)
    keys = np.concatenate([earlier.keys, new])
    rows = np.concatenate([earlier.rows, (earlier.n_rows + np.arange(len(new))).astype(np.int32)])
    order = np.argsort(keys)
    return Vocabulary(keys[order], rows[order], earlier.unknown_rows)


def fit_vocabulary(
    names: Sequence[str], counted: Iterable[tuple[np.ndarray, np.ndarray]], min_count: int
) -> Vocabulary:
    """Fit a vocabulary over `names` on `(keys, counts)` of the training part; keys with fewer than `min_count` stay
    unknown.
    """
    parts = list(counted)
    keys = np.concatenate([np.zeros(0, np.int64), *(k for k, _ in parts)])
    counts = np.concatenate([np.zeros(0, np.int64), *(c for _, c in parts)])
    distinct, inverse = np.unique(keys, return_inverse=True)
    totals = np.bincount(inverse, weights=counts, minlength=len(distinct))
    frequent = distinct[(totals >= min_count) & (distinct != MISSING_KEY)]
    unknown = {name: 1 + i for i, name in enumerate(names)}
    return Vocabulary(
        keys=frequent, rows=(1 + len(names) + np.arange(len(frequent))).astype(np.int32), unknown_rows=unknown
    )


def key_column_vocabularies(features: Sequence[Feature]) -> tuple[str, ...]:
    """The vocabulary of each key column of a packed row of these features."""
    columns: list[str] = []
    for feature in features:
        if isinstance(feature, Numeric):
            continue
        columns += [feature.vocabulary_name] * (feature.max_values if isinstance(feature, MultiCategorical) else 1)
    return tuple(columns)


def behaviour_column_vocabularies(schema: FeatureSchema) -> tuple[str, ...]:
    """The vocabulary of each key column of a packed behaviour row."""
    if schema.behaviour is None:
        return ()
    return (
        *key_column_vocabularies(schema.behaviour_item_features),
        schema.behaviour.action_vocabulary,
        schema.behaviour.scene_vocabulary,
    )


def vocabulary_names(schema: FeatureSchema) -> tuple[str, ...]:
    """The names of all vocabularies of a schema, without duplicates, in order."""
    columns = key_column_vocabularies(schema.all_features) + behaviour_column_vocabularies(schema)
    columns += key_column_vocabularies(schema.derived_features)
    return tuple(dict.fromkeys(columns))
