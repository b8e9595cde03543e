"""Measures how differently two versions score: distribution, order, the top of the list."""

import numpy as np

BINS = 10
_PLACES = 16


def sampled_places(candidates: int) -> np.ndarray:
    """At most 16 evenly spread places of a list, so that two versions are compared on the same candidates."""
    return np.linspace(0, candidates - 1, min(candidates, _PLACES)).astype(np.int64)


def psi(reference: np.ndarray, other: np.ndarray) -> float:
    """Population stability index of `other` against `reference`: sum over the deciles of `reference` of (p - q) ln(p / q).

    0 for equal distributions; for two normals of equal spread it is the squared distance of their means in standard deviations. Half a
    score is added to every bin, so that an empty one does not make it infinite.
    """
    edges = np.unique(np.quantile(reference, np.arange(1, BINS) / BINS))
    shares = []
    for scores in (reference, other):
        counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (len(scores) + 0.5 * len(counts)))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def psi_by_chance(reference_users: int, other_users: int) -> float:
    """What the PSI of two equal distributions is expected to be, by the number of independent users on either side.

    The scores of one list depend on one another, so users are counted and not scores. (B - 1) (1/n + 1/m) for B bins: PSI is asymptotically
    chi-squared (Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020).
    """
    return (BINS - 1) * (1 / max(reference_users, 1) + 1 / max(other_users, 1))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks, ties sharing their mean rank; 0 where one side is constant."""
    ranks = [_ranks(x) for x in (one, other)]
    centred = [r - r.mean() for r in ranks]
    spread = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / spread) if spread else 0.0


def _ranks(scores: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def overlap(one: np.ndarray, other: np.ndarray, top: int = 10) -> float:
    """The share of the first `top` by `one` that are among the first `top` by `other`; ties as the ranking breaks them."""
    top = min(top, len(one))
    firsts = [set(np.argsort(-x, kind="stable")[:top].tolist()) for x in (one, other)]
    return len(firsts[0] & firsts[1]) / top
