"""Defines the steps of a brown-out: fewer behaviours, then two passes, then the small version alone."""

from collections.abc import Mapping

import numpy as np

from features.layouts import BEHAVIOUR_INPUTS

FEWER_BEHAVIOURS = 1
TWO_PASSES = 2
SMALL_ALONE = 3
# The newest fifth of the sequence: a length for which every bundle is warmed up.
_SHARE_OF_BEHAVIOURS = 5
# The second pass scores a tenth of the candidates, but never fewer than these.
_SHARE_OF_CANDIDATES = 10
_FEWEST_CANDIDATES = 20


def with_fewer_behaviours(inputs: Mapping[str, np.ndarray], max_behaviours: int) -> Mapping[str, np.ndarray]:
    """Return a request's graph inputs with the newest fifth of `max_behaviours`; the same object if none is cut."""
    times = inputs.get("behaviour_times")
    most = max(1, max_behaviours // _SHARE_OF_BEHAVIOURS)
    if times is None or len(times) <= most:
        return inputs
    return {**inputs, **{name: inputs[name][:most] for name in BEHAVIOUR_INPUTS if name in inputs}}


def second_pass_size(candidates: int) -> int:
    """The number of candidates that the full model scores in step 2; all of them if the list is short."""
    return min(candidates, max(_FEWEST_CANDIDATES, candidates // _SHARE_OF_CANDIDATES))


def best_places(first: np.ndarray) -> np.ndarray:
    """Return the positions of the candidates for the second pass, in the order of the request, int64 `[m]`.

    `first` are the first pass's fused scores `[C]`. Of equal scores the earlier positions are taken.
    """
    finite_first = np.where(np.isfinite(first), first, -np.inf)
    return np.sort((-finite_first).argsort(kind="stable")[: second_pass_size(len(first))])


def merged(first: np.ndarray, second: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the final scores float64 `[C]` of two passes.

    The candidates at `places` have their fused scores `second` `[m]` of the full model. The others keep the order of
    the first pass's fused scores `first` `[C]`, below the lowest finite score of the full model. For that their scores
    are scaled if scaling suffices, because it keeps the sign, and otherwise shifted.
    """
    scores = first.astype(np.float64)
    scores[places] = np.nan
    rest = np.isfinite(scores)
    finite = second[np.isfinite(second)]
    if rest.any() and len(finite):
        ceiling = np.nextafter(float(finite.min()), -np.inf)
        highest = float(scores[rest].max())
        if highest > ceiling:
            lowered = scores[rest] + (ceiling - highest)
            if ceiling > 0:
                lowered = scores[rest] * (ceiling / highest)
            # Rounding may lift the highest one above the ceiling.
            scores[rest] = np.minimum(lowered, ceiling)
    scores[places] = second
    return scores
