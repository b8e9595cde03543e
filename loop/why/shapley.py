"""Computes exact Shapley shares: how much of a difference each of a few factors accounts for."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from math import factorial


def shapley_shares(factors: Sequence[str], value: Callable[[frozenset[str]], int]) -> dict[str, Fraction]:
    """The share of each factor in `value(all factors) - value(no factor)` (Shapley, 1953; Lundberg and Lee, 2017).

    `value` is called for every set of the factors, once for each. The share of a factor is the mean of what it adds
    over all orders in which the factors may be changed. The shares sum to the difference; a factor that never changes a
    value has the share 0; two factors that always change it alike have equal shares.
    """
    sets = [frozenset(some) for size in range(len(factors) + 1) for some in combinations(factors, size)]
    values = {some: value(some) for some in sets}
    return {factor: _share(factor, len(factors), values) for factor in factors}


def _share(factor: str, count: int, values: dict[frozenset[str], int]) -> Fraction:
    share = Fraction(0)
    for some, before in values.items():
        if factor not in some:
            # The share of the orders in which exactly these factors are changed before this one.
            weight = Fraction(factorial(len(some)) * factorial(count - len(some) - 1), factorial(count))
            share += weight * (values[some | {factor}] - before)
    return share
