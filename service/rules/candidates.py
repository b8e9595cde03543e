"""Holds the part of a request that rules read: the candidates' ids, features, sources and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from service.store.shown import shown_key


@dataclass(frozen=True, eq=False)
class CandidateList:
    """The candidates of one request.

    `keys` int64 `[C, K]` and `numerics` float32 `[C, N]` are the item rows as packed; `scores` float64 `[C]` come from
    fusion; `predictions` float32 `[tasks, C]`; `outputs` are item vectors float32 `[C, D]` of
    the graph by name, those that the rules read.
    """

    item_ids: Sequence[str]
    keys: np.ndarray
    numerics: np.ndarray
    scores: np.ndarray
    predictions: np.ndarray
    sources: Sequence[str | None] | None = None
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def item_keys(self) -> np.ndarray:
        """The candidates' own keys, int64 `[C]`, as exposures have them."""
        return np.fromiter(map(shown_key, self.item_ids), dtype=np.int64, count=len(self))


def is_in(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return which values are among sorted keys, bool; takes a tenth of the time of `np.isin`."""
    if not len(keys):
        return np.zeros(values.shape, dtype=bool)
    return np.asarray(keys.take(np.searchsorted(keys, values), mode="clip") == values)
