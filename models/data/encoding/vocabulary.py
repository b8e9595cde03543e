"""Maps 64-bit keys to embedding rows; fitted on the training part alone.

Row 0 is missing and padding (a zero vector that never trains). Each vocabulary has one unknown row; the buckets of
hashed vocabularies follow, then the rows of known keys.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from features import MISSING_KEY, Feature, FeatureSchema, MultiCategorical, Numeric, Vector
from models.data.encoding.two_hashes import Pools, pools_of
from models.data.stored.buckets import Buckets, bucket_count
from models.data.stored.memory import refuse_beyond

MISSING_ROW = 0

LEAST_WAITING = 1 << 20  # keys that are collected before they are added up
_COUNTED = np.dtype([("key", "<i8"), ("count", "<f8")])
_COUNTED_BYTES = 64  # of a pair in memory, while pairs are added up
_VOCABULARY_BYTES = 40  # of a key in memory, while the vocabulary is fitted
_FEWER = (
    ", or model.embedding.min_count, which leaves rare keys out; a large vocabulary may have "
    "model.embedding.hash_buckets, which counts nothing"
)


@dataclass(frozen=True)
class Vocabulary:
    """`keys` int64 `[V]` ascending and their `rows` int32 `[V]`; `unknown_rows` by vocabulary name; the total number
    `n_rows`.

    Keys are salted with their vocabulary's name, so one table holds all vocabularies. `buckets`: the number of rows
    that the keys of a hashed vocabulary share, by its name; such a vocabulary has no known keys. With two `hashes`, a
    key of it has a code in the place of a row (`two_hashes.py`).
    """

    keys: np.ndarray
    rows: np.ndarray
    unknown_rows: Mapping[str, int]
    buckets: Mapping[str, int] = field(default_factory=dict)
    hashes: int = 1

    @property
    def n_rows(self) -> int:
        return 1 + len(self.unknown_rows) + sum(self.buckets.values()) + len(self.keys)

    @property
    def pools(self) -> dict[str, Pools]:
        """The pools of the vocabularies that have two hashes, by name; none if there is one hash."""
        return pools_of(self.buckets, 1 + len(self.unknown_rows)) if self.hashes == 2 else {}

    def shared_rows(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The rows that keys without a row of their own share, by column: the first, and how many, int64 `[columns]`.

        `names`: the vocabulary of each column. One that is not hashed has its unknown row alone; one with two hashes
        has codes.
        """
        starts = dict(self.unknown_rows)
        start = 1 + len(self.unknown_rows)
        for name, count in self.buckets.items():
            starts[name] = start
            start += count
        sizes = dict(self.buckets)
        for name, pools in self.pools.items():
            starts[name] = pools.first_code
            sizes[name] = pools.codes
        counts = [sizes.get(name, 1) for name in names]
        return np.array([starts[name] for name in names], dtype=np.int64), np.array(counts, dtype=np.int64)

    def rows_of_columns(self, keys: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Embedding rows, int32 in the shape of `keys` `[..., columns]`; `names`: the vocabulary of each column.

        Keys are hashes already, so a key's bucket is the key modulo their number.
        """
        first, count = self.shared_rows(names)
        return self.rows_of(keys, first + keys % count)

    def rows_of(self, keys: np.ndarray, unknown: np.ndarray) -> np.ndarray:
        """Embedding rows, int32 in the shape of `keys`; `unknown` broadcasts and has the rows of unknown keys."""
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
    return replace(earlier, keys=keys[order], rows=rows[order])


@dataclass(frozen=True)
class CountingSpace:
    """Where keys are counted: a folder for what does not fit into memory, and the limit in bytes.

    `most`: an upper bound of the `(key, count)` pairs.
    """

    folder: Path
    memory_bytes: int
    most: int


def fit_vocabulary(
    names: Sequence[str],
    counted: Iterable[tuple[np.ndarray, np.ndarray]],
    min_count: int,
    buckets: Mapping[str, int] | None = None,
    space: CountingSpace | None = None,
    hashes: int = 1,
) -> Vocabulary:
    """Fit a vocabulary over `names` on `(keys, counts)` of the training part; keys with fewer than `min_count` stay
    unknown. `buckets`: the rows of each hashed vocabulary, whose keys are not in `counted`; `hashes`: those of a key.
    Without a `space`, keys are counted in memory. Raises RecipeError if the vocabulary itself does not fit into memory.
    """
    if space is None:
        frequent = _frequent(counted, min_count)
    else:
        frequent = _frequent_in_space(counted, min_count, space)
    unknown = {name: 1 + i for i, name in enumerate(names)}
    sizes = {name: buckets[name] for name in names if name in buckets} if buckets else {}
    first = 1 + len(names) + sum(sizes.values())
    rows = (first + np.arange(len(frequent))).astype(np.int32)
    return Vocabulary(keys=frequent, rows=rows, unknown_rows=unknown, buckets=sizes, hashes=hashes)


def _frequent(counted: Iterable[tuple[np.ndarray, np.ndarray]], min_count: int) -> np.ndarray:
    """The keys with at least `min_count`, int64 `[V]` ascending."""
    distinct, totals = totalled(counted)
    return distinct[(totals >= min_count) & (distinct != MISSING_KEY)]


def _frequent_in_space(
    counted: Iterable[tuple[np.ndarray, np.ndarray]], min_count: int, space: CountingSpace
) -> np.ndarray:
    """The same; the keys are first sorted into ranges on disk, each of which is counted by itself."""
    n = bucket_count(space.most, _COUNTED_BYTES, space.memory_bytes // 2)
    if n == 1:
        return _frequent(counted, min_count)
    frequent = []
    size = 0
    with Buckets(space.folder / "counts", _COUNTED, n) as ranges:
        for keys, counts in counted:
            rows = np.empty(len(keys), dtype=_COUNTED)
            rows["key"] = keys
            rows["count"] = counts
            # Keys are hashes, so that ranges of equal width have about as many; they ascend with the keys.
            ranges.append(rows, ((keys >> 32) + (1 << 31)) * n >> 32)
        for counted_rows in ranges.pieces(LEAST_WAITING):
            pieces = ((rows["key"], rows["count"]) for rows in counted_rows)
            frequent.append(_frequent(pieces, min_count))
            size += len(frequent[-1])
            refuse_beyond(space.memory_bytes // 2, size * _VOCABULARY_BYTES, f"a vocabulary of {size:,} keys", _FEWER)
    return np.concatenate(frequent)


def totalled(
    counted: Iterable[tuple[np.ndarray, np.ndarray]], dtype: DTypeLike = np.int64
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys `[V]`, ascending, and their counts float64 `[V]`, of `(keys, counts)` that arrive in chunks.

    Memory: chunks are added up once they are as large as the total so far, so it follows the distinct keys and not the
    rows of the tables.
    """
    distinct = np.zeros(0, dtype)
    totals = np.zeros(0, np.float64)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for keys, counts in counted:
        waiting.append((keys, counts))
        size += len(keys)
        if size > max(len(distinct), LEAST_WAITING):
            distinct, totals = _added([(distinct, totals), *waiting])
            waiting = []
            size = 0
    return _added([(distinct, totals), *waiting])


def _added(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    distinct, inverse = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    weights = np.concatenate([counts for _, counts in parts])
    return distinct, np.bincount(inverse, weights=weights, minlength=len(distinct))


def key_column_vocabularies(features: Sequence[Feature]) -> tuple[str, ...]:
    """The vocabulary of each key column of a packed row of these features."""
    columns: list[str] = []
    for feature in features:
        if isinstance(feature, Numeric | Vector):
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
