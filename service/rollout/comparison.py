"""Compares the scores of two versions: which places are compared, differences by chance, the top of the list."""

import numpy as np

from features.statistics import BINS

_PLACES = 16


def sampled_places(candidates: int) -> np.ndarray:
    """At most 16 evenly spread places of a list, so that two versions are compared on the same candidates."""
    return np.linspace(0, candidates - 1, min(candidates, _PLACES)).astype(np.int64)


def psi_by_chance(reference_users: int, other_users: int) -> float:
    """The expected PSI of two equal distributions, by the number of independent users on either side.

    The scores of one list depend on one another, so users are counted and not scores. (B - 1) (1/n + 1/m) for B bins:
    PSI is asymptotically chi-squared (Yurdakul and Naranjo, "Statistical properties of the population stability
    index", 2020).
    """
    return (BINS - 1) * (1 / max(reference_users, 1) + 1 / max(other_users, 1))


def overlap(one: np.ndarray, other: np.ndarray, top: int = 10) -> float:
    """The share of the first `top` by `one` that are among the first `top` by `other`; ties as the ranking breaks
    them.
    """
    top = min(top, len(one))
    firsts = [set(np.argsort(-x, kind="stable")[:top].tolist()) for x in (one, other)]
    return len(firsts[0] & firsts[1]) / top
