"""Counts context features that vary among the impressions of one request, in the one pass over the impressions.

A request has one context for all its candidates, so a value that differs among them belongs to the candidate.
"""

from typing import Any

import numpy as np

from features import RowLayout
from features.times import UNKNOWN_MS

# The number of groups in memory. Of more groups, a uniform sample stays: those whose hash is below a threshold, which
# is halved as often as necessary (Wegman's adaptive sampling, Flajolet 1990).
MOST_GROUPS = 1 << 15


class ContextVariation:
    """Compares the context of impressions of one request, or of one user and time, wherever they are in the table.

    Memory: at most `most_groups` groups of 17 bytes and 9 per context feature, and as much again for one batch.
    """

    def __init__(self, layout: RowLayout, by_request: bool, most_groups: int = MOST_GROUPS) -> None:
        self._layout = layout
        self._by_request = by_request
        self._most_groups = most_groups
        self._threshold = np.uint64(2**64 - 1)
        self._groups = np.zeros(0, dtype=np.uint64)  # ascending
        self._sizes = np.zeros(0, dtype=np.int64)
        self._first = np.zeros((0, len(layout.features)), dtype=np.uint64)  # a hash of each feature's first value
        self._varies = np.zeros(self._first.shape, dtype=bool)

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Count a batch of encoded impressions: `user`, `time`, `context` and, by request, `request`."""
        if not self._layout.features:
            return
        # The groups of the batch that are in the sample.
        if self._by_request:
            groups = mixed(columns["request"])
            used = groups <= self._threshold
        else:
            groups = mixed(mixed(columns["time"]) ^ columns["user"].astype(np.uint64))
            used = (groups <= self._threshold) & (columns["time"] != UNKNOWN_MS)
        values = _hashes(self._layout, columns["context"][used])
        self._merge(groups[used], values)
        # If there are too many groups, lower the threshold.
        while len(self._groups) > self._most_groups:
            self._threshold >>= np.uint64(1)
            n = int(np.searchsorted(self._groups, self._threshold, side="right"))
            self._groups = self._groups[:n].copy()
            self._sizes = self._sizes[:n].copy()
            self._first = self._first[:n].copy()
            self._varies = self._varies[:n].copy()

    def described(self) -> dict[str, Any]:
        """Return, for each feature that varies, the share of the groups (of two or more impressions) in which
        it does.
        """
        lists = self._sizes > 1
        n = int(lists.sum())
        varying = self._varies[lists].sum(axis=0)
        names = [feature.name for feature in self._layout.features]
        shares = {name: int(count) / n for name, count in zip(names, varying, strict=True) if count}
        return {"by_request": self._by_request, "groups": n, "shares": shares}

    def _merge(self, groups: np.ndarray, values: np.ndarray) -> None:
        """Merge impressions into the groups in memory."""
        sizes = np.concatenate([self._sizes, np.ones(len(groups), dtype=np.int64)])
        varies = np.concatenate([self._varies, np.zeros(values.shape, dtype=bool)])
        groups = np.concatenate([self._groups, groups])
        order = np.argsort(groups, kind="stable")
        self._groups, starts = np.unique(groups[order], return_index=True)
        if not len(starts):
            return
        self._sizes = np.add.reduceat(sizes[order], starts)
        values = np.concatenate([self._first, values])[order]
        different = np.minimum.reduceat(values, starts) != np.maximum.reduceat(values, starts)
        self._varies = np.logical_or.reduceat(varies[order], starts) | different
        self._first = values[starts]


def _hashes(layout: RowLayout, rows: np.ndarray) -> np.ndarray:
    """A hash of each feature's value, uint64 `[n, features]`; a missing value counts as a value of its own."""
    out = np.zeros((len(rows), len(layout.features)), dtype=np.uint64)
    for i, feature in enumerate(layout.features):
        if feature.name in layout.numeric_columns:
            number = rows["numerics"][:, layout.numeric_columns[feature.name]]
            out[:, i] = np.ascontiguousarray(number).view(np.uint32)
            continue
        if feature.name in layout.vector_columns:
            for number in rows["numerics"][:, layout.vector_columns[feature.name]].T:
                out[:, i] = mixed(out[:, i] ^ np.ascontiguousarray(number).view(np.uint32))
            continue
        # The value of a list is its keys in order, so each key is mixed with those before it.
        for key in rows["keys"][:, layout.key_columns[feature.name]].T:
            out[:, i] = mixed(out[:, i] ^ key.astype(np.int64).view(np.uint64))
    return out


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of a value decides every bit, uint64."""
    x = np.ascontiguousarray(values).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
