"""Tests the properties that define Shapley shares, and the shares of a game that can be computed by hand."""

from fractions import Fraction
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from loop.why.shapley import shapley_shares

FACTORS = ["version", "weights", "features", "behaviours"]
SETS = [frozenset(f for at, f in enumerate(FACTORS) if bits >> at & 1) for bits in range(16)]
GAMES = st.lists(st.integers(1, 2000), min_size=16, max_size=16).map(
    lambda values: dict(zip(SETS, values, strict=True))
)


@given(GAMES)
def test_the_shares_sum_to_the_difference(values: dict[frozenset[str], int]) -> None:
    shares = shapley_shares(FACTORS, values.__getitem__)
    assert sum(shares.values()) == values[frozenset(FACTORS)] - values[frozenset()]


@given(GAMES)
def test_a_share_is_the_mean_over_all_orders(values: dict[frozenset[str], int]) -> None:
    shares = shapley_shares(FACTORS, values.__getitem__)
    for factor in FACTORS:
        added = []
        for ordering in permutations(FACTORS):
            before = frozenset(ordering[: ordering.index(factor)])
            added.append(values[before | {factor}] - values[before])
        assert shares[factor] == Fraction(sum(added), len(added))


@given(GAMES)
def test_factors_that_act_alike_have_equal_shares(values: dict[frozenset[str], int]) -> None:
    def symmetric(changed: frozenset[str]) -> int:
        """A game that does not tell the first two factors apart."""
        count = len(changed & {"version", "weights"})
        return values[frozenset(["version", "weights"][:count]) | (changed - {"version", "weights"})]

    shares = shapley_shares(FACTORS, symmetric)
    assert shares["version"] == shares["weights"]


@given(GAMES, st.sampled_from(FACTORS))
def test_a_factor_without_an_effect_has_no_share(values: dict[frozenset[str], int], dummy: str) -> None:
    assert shapley_shares(FACTORS, lambda changed: values[changed - {dummy}])[dummy] == 0


@given(GAMES, GAMES)
def test_the_shares_of_a_sum_are_the_sums_of_the_shares(
    one: dict[frozenset[str], int], other: dict[frozenset[str], int]
) -> None:
    both = shapley_shares(FACTORS, lambda changed: one[changed] + other[changed])
    alone = [shapley_shares(FACTORS, values.__getitem__) for values in (one, other)]
    assert both == {factor: alone[0][factor] + alone[1][factor] for factor in FACTORS}


def test_an_effect_of_two_factors_together_is_halved() -> None:
    shares = shapley_shares(FACTORS, lambda changed: 10 - 6 * ({"version", "features"} <= changed))
    assert shares == {"version": -3, "features": -3, "weights": 0, "behaviours": 0}


def test_every_set_is_valued_once() -> None:
    calls: list[frozenset[str]] = []
    shapley_shares(FACTORS, lambda changed: calls.append(changed) or 0)
    assert sorted(map(sorted, calls)) == sorted(map(sorted, SETS))
