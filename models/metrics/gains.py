"""nDCG with a gain per label: one figure for an order that serves several labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.metrics.ranking import CUTOFFS, discount_sums


@dataclass(frozen=True)
class GainMetrics:
    """nDCG by cutoff of each group that counts, arrays `[G]`; a group in which all gains are equal is `skipped`."""

    group: np.ndarray
    ndcg: Mapping[int, np.ndarray]
    skipped: int

    def columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each metric the values and weights `[G]` of its weighted mean."""
        return {f"gain_ndcg@{k}": (values, np.ones(len(values))) for k, values in self.ndcg.items()}

    def means(self) -> dict[str, float | None]:
        """Return the mean of every metric by name, None if no group counts."""
        if not len(self.group):
            return dict.fromkeys(self.columns())
        return {name: float(values.mean()) for name, (values, _) in self.columns().items()}


def gain_metrics(
    gains: np.ndarray, scores: np.ndarray, groups: np.ndarray, cutoffs: Sequence[int] = CUTOFFS
) -> GainMetrics:
    """nDCG@k of every group from gains of at least 0, scores and group numbers, `[n]` each.

    DCG@k is the sum of gain / log2(rank + 1) over the first k ranks, divided by that of the best order (Järvelin and
    Kekäläinen, TOIS 2002). With ties it is the mean over their orders: each tied impression gets the mean discount of
    the tied ranks (McSherry & Najork, ECIR 2008).
    """
    if not len(gains):
        return GainMetrics(np.zeros(0, np.int64), dict.fromkeys(cutoffs, np.zeros(0)), 0)
    gains = gains.astype(np.float64)
    order = np.lexsort((-scores, groups))
    best = np.lexsort((-gains, groups))
    group = groups[order]
    score = scores[order]
    # A group is a contiguous range of impressions in both orders, a tie a contiguous range within a group.
    new_group = np.r_[True, group[1:] != group[:-1]]
    new_tie = new_group | np.r_[True, score[1:] != score[:-1]]
    first = np.flatnonzero(new_group)
    owner = np.cumsum(new_group) - 1
    rank = np.arange(len(group)) - first[owner]
    tie_first = np.flatnonzero(new_tie)
    tie_size = np.diff(np.r_[tie_first, len(group)])
    tie_gains = np.add.reduceat(gains[order], tie_first)
    before = rank[tie_first]
    highest = np.maximum.reduceat(gains[best], first)
    lowest = np.minimum.reduceat(gains[best], first)
    counts = highest > lowest
    # DCG of the scores' order and of the best order.
    ndcg = {}
    for k in cutoffs:
        discounts = discount_sums(int(rank.max()) + 1, k)
        mean_discount = (discounts[before + tie_size] - discounts[before]) / tie_size
        dcg = np.bincount(owner[tie_first], weights=mean_discount * tie_gains, minlength=len(first))
        ideal = np.bincount(owner, weights=np.diff(discounts)[rank] * gains[best], minlength=len(first))
        ndcg[k] = (dcg / np.where(counts, ideal, 1))[counts]
    return GainMetrics(group[first][counts], ndcg, int((~counts).sum()))
