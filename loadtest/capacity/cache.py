"""The share of candidates that a worker's item cache holds, if items are asked for by Zipf's law.

Source: Che, Tung and Wang, "Hierarchical Web caching systems", IEEE JSAC 2002. A cache of K rows that drops what was
used least lately holds about the items that were asked for within the last T requests, where T makes their expected
number K: sum over items of 1 - exp(-p T) = K. The hit ratio is the sum of p (1 - exp(-p T)).
"""

import math
from typing import NamedTuple

import numpy as np

_EXACT_RANKS = 10_000
_RANKS_PER_OCTAVE = 64
_STEPS = 200


class ItemPopularity(NamedTuple):
    """Items in groups of like popularity: float64 `[groups]` each, the probability of one item and the items."""

    probability: np.ndarray
    items: np.ndarray


def zipf(items: float, exponent: float) -> ItemPopularity:
    """The popularity of `items` items whose rank r is asked for in proportion to r to the power of -exponent.

    The first 10,000 ranks stand alone; those behind them are put together in narrow groups.
    """
    exact = int(min(items, _EXACT_RANKS))
    ranks = np.arange(1, exact + 1, dtype=np.float64)
    counts = np.ones(exact)
    if items > exact:
        octaves = math.log2(items / exact)
        edges = np.geomspace(exact + 0.5, items + 0.5, max(2, int(octaves * _RANKS_PER_OCTAVE) + 1))
        ranks = np.concatenate([ranks, np.sqrt(edges[1:] * edges[:-1])])
        counts = np.concatenate([counts, np.diff(edges)])
    weights = ranks**-exponent
    return ItemPopularity(weights / (weights * counts).sum(), counts)


def distinct(popularity: ItemPopularity, candidates: float) -> ItemPopularity:
    """The popularity of items among the candidates of a ranking, which are all different: an item is in a ranking once
    at most, so a favourite has less than its share.

    Candidates are drawn until there are enough different ones: m draws, of which item i is one with probability
    1 - exp(-p m).
    """
    if candidates >= popularity.items.sum():
        return ItemPopularity(np.full(len(popularity.items), 1 / popularity.items.sum()), popularity.items)
    draws = window_of(popularity, candidates)
    included = -np.expm1(-popularity.probability * draws)
    return ItemPopularity(included / (included * popularity.items).sum(), popularity.items)


def window_of(popularity: ItemPopularity, rows: float) -> float:
    """The number of requests T that a cache of `rows` rows looks back; infinite if it holds every item."""
    if rows >= popularity.items.sum():
        return math.inf
    low = 0.0
    high = 100.0
    # Bisection in the logarithm: the number of items within T requests grows with T.
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _held(popularity, math.exp(middle)) < rows:
            low = middle
        else:
            high = middle
    return math.exp(low)


def _held(popularity: ItemPopularity, window: float) -> float:
    return float((popularity.items * -np.expm1(-popularity.probability * window)).sum())


def hit_ratio(popularity: ItemPopularity, rows: float) -> float:
    """The share of requests for an item that a cache of `rows` rows answers."""
    if rows <= 0:
        return 0.0
    window = window_of(popularity, rows)
    if math.isinf(window):
        return 1.0
    asked = popularity.probability * popularity.items
    return float((asked * -np.expm1(-popularity.probability * window)).sum())


def hottest_missing(popularity: ItemPopularity, rows: float) -> float:
    """The largest share that one item has among the requests that the cache does not answer; 0 if it answers all."""
    window = window_of(popularity, rows) if rows > 0 else 0.0
    if math.isinf(window):
        return 0.0
    missed = popularity.probability * np.exp(-popularity.probability * window)
    return float(missed.max() / (missed * popularity.items).sum())
