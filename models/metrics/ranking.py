"""Metrics of an order: AUC over all impressions, and per group (request or user) AUC, nDCG, recall and reciprocal
rank.

Tied impressions have no order. Every metric here is the mean over all orders of the tied impressions, so that it
depends only on the scores and not on the order of the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from features.statistics import average_ranks

TOP_SHARES = (0.001, 0.006, 0.01)
CUTOFFS = (5, 10)


@dataclass(frozen=True)
class TopShare:
    """Recall, precision and F1 of the highest-scored `share` of impressions (ESM2 paper, section 4.1.3)."""

    share: float
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class GroupedAuc:
    """`value`: the mean AUC of the groups, weighted by impressions; groups with a single class are `skipped`."""

    value: float | None
    groups: int
    skipped: int


@dataclass(frozen=True)
class ListMetrics:
    """The metrics of each group that counts, arrays `[G]`; a group in which all labels are equal is `skipped`.

    `group`: the group's number as given; `impressions`: its size; `ndcg` and `recall`: by cutoff.
    """

    group: np.ndarray
    impressions: np.ndarray
    auc: np.ndarray
    ndcg: Mapping[int, np.ndarray]
    recall: Mapping[int, np.ndarray]
    mrr: np.ndarray
    skipped: int

    def columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each metric the values and weights `[G]` of its weighted mean: GAUC is weighted by impressions, others
        equally.
        """
        alike = np.ones(len(self.group))
        result = {"gauc": (self.auc, self.impressions.astype(np.float64))}
        result |= {f"ndcg@{k}": (values, alike) for k, values in self.ndcg.items()}
        result |= {f"recall@{k}": (values, alike) for k, values in self.recall.items()}
        return result | {"mrr": (self.mrr, alike)}

    def means(self) -> dict[str, float | None]:
        """Return the mean of every metric by name, None if no group counts."""
        if not len(self.group):
            return dict.fromkeys(self.columns())
        return {name: float(np.average(values, weights=w)) for name, (values, w) in self.columns().items()}


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted as one half (Mann-Whitney U); None if there is only one class."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    rank_sum = average_ranks(scores)[labels > 0].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> GroupedAuc:
    """Sum over groups of impressions * AUC, divided by the sum of impressions (DIN, equation 7).

    Groups with only one class do not count.
    """
    result = list_metrics(labels, scores, groups, ())
    return GroupedAuc(result.means()["gauc"], len(result.group), result.skipped)


def list_metrics(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, cutoffs: Sequence[int] = CUTOFFS
) -> ListMetrics:
    """The metrics of every group from labels of 0 and 1, scores and group numbers, `[n]` each.

    A positive's gain is 1. nDCG@k = DCG@k / best possible DCG@k with the discount 1 / log2(rank + 1) (Järvelin and
    Kekäläinen, TOIS 2002). With ties it is the mean over their orders: each tied impression gets the mean discount of
    the tied ranks
    (McSherry & Najork, ECIR 2008). recall@k is the share of the group's positives among its first k impressions; of a
    tie that lies across the border, each impression is among them with the same probability. The reciprocal rank is
    that of the first positive.
    """
    if not len(labels):
        empty = np.zeros(0)
        by_cutoff = dict.fromkeys(cutoffs, empty)
        return ListMetrics(np.zeros(0, np.int64), empty, empty, by_cutoff, by_cutoff, empty, 0)
    # Best score first within each group.
    order = np.lexsort((-scores, groups))
    label = labels[order].astype(np.float64)
    score = scores[order]
    group = groups[order]
    # A group is a contiguous range of impressions, a tie a contiguous range within a group.
    new_group = np.r_[True, group[1:] != group[:-1]]
    new_tie = new_group | np.r_[True, score[1:] != score[:-1]]
    first = np.flatnonzero(new_group)
    tie_first = np.flatnonzero(new_tie)
    size = np.diff(np.r_[first, len(label)])
    tie_size = np.diff(np.r_[tie_first, len(label)])
    owner = (np.cumsum(new_group) - 1)[tie_first]
    before = tie_first - first[owner]  # impressions of the same group above the tie
    # Count impressions and positives of each tie and each group.
    tie_positives = np.add.reduceat(label, tie_first)
    positives = np.add.reduceat(label, first)
    counts = (positives > 0) & (positives < size)
    # AUC: the rank from below is the group's size minus the mean rank from above plus 1.
    rank_from_below = size[owner] - (before + (tie_size + 1) / 2.0) + 1
    rank_sum = np.bincount(owner, weights=rank_from_below * tie_positives, minlength=len(first))
    pairs = np.where(counts, positives * (size - positives), 1)
    area = (rank_sum - positives * (positives + 1) / 2) / pairs
    # DCG: a tied impression gets the mean discount of the tie's ranks.
    ndcg = {}
    recall = {}
    for k in cutoffs:
        discounts = discount_sums(int(size.max()), k)
        mean_discount = (discounts[before + tie_size] - discounts[before]) / tie_size
        dcg = np.bincount(owner, weights=mean_discount * tie_positives, minlength=len(first))
        ndcg[k] = (dcg / np.where(counts, discounts[positives.astype(np.int64)], 1))[counts]
        within = np.clip(k - before, 0, tie_size) / tie_size  # the share of the tie among the first k
        hits = np.bincount(owner, weights=within * tie_positives, minlength=len(first))
        recall[k] = (hits / np.where(counts, positives, 1))[counts]
    return ListMetrics(
        group=group[first][counts],
        impressions=size[counts],
        auc=area[counts],
        ndcg=ndcg,
        recall=recall,
        mrr=_reciprocal_ranks(owner, before, tie_size, tie_positives, len(first))[counts],
        skipped=int((~counts).sum()),
    )


def discount_sums(longest: int, cutoff: int) -> np.ndarray:
    """The sum of the discounts of the first 0, 1, ..., `longest` ranks, those beyond the cutoff being 0."""
    ranks = np.arange(1, longest + 1)
    discounts = np.where(ranks <= cutoff, 1 / np.log2(ranks + 1.0), 0.0)
    return np.r_[0.0, np.cumsum(discounts)]


def _reciprocal_ranks(
    owner: np.ndarray, before: np.ndarray, tie_size: np.ndarray, tie_positives: np.ndarray, groups: int
) -> np.ndarray:
    """Per group the reciprocal rank of its first positive `[groups]`, 0 without one; for ties the mean over their
    orders.
    """
    result = np.zeros(groups)
    holding = np.flatnonzero(tie_positives > 0)
    holding = holding[np.r_[True, owner[holding][1:] != owner[holding][:-1]]] if len(holding) else holding
    result[owner[holding]] = 1.0 / (before[holding] + 1.0)
    for tie in holding[tie_size[holding] > 1]:
        result[owner[tie]] = _tied_reciprocal_rank(int(before[tie]), int(tie_size[tie]), int(tie_positives[tie]))
    return result


def _tied_reciprocal_rank(before: int, tied: int, positives: int) -> float:
    """Mean reciprocal rank of the first of `positives` among `tied` impressions in random order, with `before` others
    above.

    P(first at place j) = C(tied - j, positives - 1) / C(tied, positives).
    """
    orders = comb(tied, positives)
    places = range(1, tied - positives + 2)
    return sum(comb(tied - j, positives - 1) / orders / (before + j) for j in places)


def top_share(labels: np.ndarray, scores: np.ndarray, share: float) -> TopShare:
    """Metrics of the `share` highest scores (at least one). Impressions tied at the border count in proportion."""
    k = max(1, round(share * len(labels)))
    ranked = np.sort(scores)[::-1]
    border = ranked[k - 1]
    above = scores > border
    tied = scores == border
    hits = float(labels[above].sum() + labels[tied].mean() * (k - int(above.sum())))
    positives = float(labels.sum())
    recall = hits / positives if positives else 0.0
    precision = hits / k
    return TopShare(share, recall, precision, 2 * recall * precision / (recall + precision) if hits else 0.0)
