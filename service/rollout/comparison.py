"""Compares the scores of two versions: which places are compared, differences by chance, the top of the list."""

import numpy as np

from features.statistics import BINS

_PLACES = 16


def sampled_places(candidates: int) -> np.ndarray:
    """Return at most 16 evenly spread places of a list, so that two versions are compared on the same candidates."""
    return np.linspace(0, candidates - 1, min(candidates, _PLACES)).astype(np.int64)


def psi_by_chance(reference_users: int, other_users: int) -> float:
    """Return the expected PSI of two samples of one distribution, given the number of independent users in each.

    The scores of one list depend on each other, so users are counted, not scores. The value is (B - 1) (1/n + 1/m) for
    B bins: PSI is asymptotically chi-squared (Yurdakul and Naranjo, "Statistical properties of the population stability
    index", 2020).
    """
    return (BINS - 1) * (1 / max(reference_users, 1) + 1 / max(other_users, 1))


def overlap(one: np.ndarray, other: np.ndarray, top: int = 10) -> float:
    """Return the share of the top `top` by `one` that is also in the top `top` by `other`. Ties are broken as in a
    ranking.
    """
    top = min(top, len(one))
    firsts = [set(np.argsort(-x, kind="stable")[:top].tolist()) for x in (one, other)]
    return len(firsts[0] & firsts[1]) / top
