"""Holds what rules read of one request: the candidates' ids, features, sources and scores, and what the user was shown
before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from features import key_of

DAY_MS = 86_400_000
ITEM_VOCABULARY = "shown_item"  # of the keys by which exposures name items


@dataclass(frozen=True, eq=False)
class Exposures:
    """What the user was shown or acted on: item keys int64 `[n]`, times in milliseconds int64 `[n]`, in any order."""

    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    times_ms: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def since(self, start_ms: float) -> np.ndarray:
        """The item keys of that time and after, one per exposure."""
        return np.asarray(self.keys[self.times_ms >= start_ms])


@dataclass(frozen=True, eq=False)
class CandidateList:
    """The candidates of one request.

    `keys` int64 `[C, K]` and `numerics` float32 `[C, N]` are the item rows as packed; `scores` float64 `[C]` come from
    fusion; `predictions` float32 `[tasks, C]`; `outputs` are item vectors `[C, D]` of the graph by name.
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
        keys = (key_of(ITEM_VOCABULARY, item_id) for item_id in self.item_ids)
        return np.fromiter(keys, dtype=np.int64, count=len(self))
