"""Compares two sets of numbers: mean ranks, rank correlation, population stability index, relative difference."""

import numpy as np

BINS = 10


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64 `[n]`; tied values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; ties share their mean rank; 0 if one side is constant."""
    ranks = [average_ranks(x) for x in (one, other)]
    centred = [r - r.mean() for r in ranks]
    spread = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / spread) if spread else 0.0


def psi(reference: np.ndarray, other: np.ndarray) -> float:
    """Population stability index of `other`: the sum over the deciles of `reference` of (p - q) ln(p / q).

    0 for equal distributions; for two normals of equal spread it is the squared distance of their means in standard
    deviations.
    """
    edges = np.unique(np.quantile(reference, np.arange(1, BINS) / BINS))
    counts = [
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        for values in (reference, other)
    ]
    return psi_of_counts(*counts)


def psi_of_counts(reference: np.ndarray, other: np.ndarray) -> float:
    """The population stability index from counts per bin `[bins]` each.

    Half an observation is added to every bin, so that an empty one does not make the index infinite.
    """
    one, two = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (reference, other))
    return float(((two - one) * np.log(two / one)).sum())


def relative_difference(scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|scores - expected| / max(1, |expected|) in float64: absolute for probabilities, relative for values beyond 1."""
    reference = expected.astype(np.float64)
    return np.asarray(np.abs(scores - reference) / np.maximum(1, np.abs(reference)))
