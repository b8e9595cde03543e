"""Remembers the keys of integers over the batches of a file, so that each one is hashed once."""

from collections.abc import Callable

import numpy as np

Hashed = Callable[[np.ndarray], np.ndarray]
MOST = 1 << 22  # integers that are remembered, of 16 bytes each


class KnownKeys:
    """Computes the keys of columns of integers; all calls must hash in the same way.

    A batch has each id of a large table about once, so that hashing every batch by itself hashes every row. What is
    remembered lies in sorted runs. Each run is at least twice as long as the next, so that there are few to search, and
    an integer is moved few times.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def of(self, values: np.ndarray, hashed: Hashed) -> np.ndarray:
        """The keys int64 `[n]` that `hashed` gives for `values` `[n]`; it is called for unknown integers alone."""
        if values.dtype.kind not in "iu" or not len(values):
            return hashed(values)
        # numpy compares integers of two types as floats, which lose digits.
        if self._runs and values.dtype != self._runs[0][0].dtype:
            return hashed(values)
        distinct, inverse = np.unique(values, return_inverse=True)
        keys = np.zeros(len(distinct), dtype=np.int64)
        unknown = np.ones(len(distinct), dtype=bool)
        for known, known_keys in self._runs:
            place = np.minimum(np.searchsorted(known, distinct), len(known) - 1)
            same = known[place] == distinct
            keys[same] = known_keys[place[same]]
            unknown &= ~same
        if unknown.any():
            keys[unknown] = hashed(distinct[unknown])
            self._remember(distinct[unknown], keys[unknown])
        return keys[inverse]

    def _remember(self, values: np.ndarray, keys: np.ndarray) -> None:
        """Add a run of integers that are in no other run."""
        if sum(len(known) for known, _ in self._runs) + len(values) > self._most:
            self._runs = []
        self._runs.append((values, keys))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            last = self._runs.pop()
            before = self._runs.pop()
            every = np.concatenate([before[0], last[0]])
            order = np.argsort(every, kind="stable")
            self._runs.append((every[order], np.concatenate([before[1], last[1]])[order]))
