"""Tests comparing versions and splitting users."""

import numpy as np
import pytest

from features.statistics import psi, rank_correlation
from service.rollout.comparison import overlap
from service.rollout.observing.canary import Sides
from service.rollout.observing.shadow import ScoreSamples
from service.rollout.recent import Assembly, RecentRequests
from service.rollout.rollout import Limits
from service.user_split import PLACES, place_of, within

RANDOM = np.random.default_rng(5)


def test_psi_of_normals_is_the_squared_distance_of_their_means() -> None:
    one = RANDOM.normal(size=200_000)
    other = RANDOM.normal(size=200_000)
    assert psi(one, other) < 0.001
    assert psi(one, other + 0.5) == pytest.approx(0.25, abs=0.03)
    assert psi(one, other + 1) == pytest.approx(1.0, abs=0.12)


def test_psi_bears_constant_scores() -> None:
    constant = np.full(1000, 0.3)
    spread = RANDOM.random(1000)
    assert psi(constant, constant) == pytest.approx(0, abs=1e-6)
    assert psi(constant, constant + 0.1) < psi(constant, constant - 0.1)
    assert np.isfinite(psi(spread, constant)) and psi(spread, constant) > 3


def test_rank_correlation_is_that_of_the_ranks() -> None:
    scores = RANDOM.random(50)
    assert rank_correlation(scores, np.exp(5 * scores)) == pytest.approx(1)
    assert rank_correlation(scores, -scores) == pytest.approx(-1)
    assert rank_correlation(scores, np.zeros(50)) == 0
    assert rank_correlation(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4])) == pytest.approx(0.9486833)


def test_overlap_counts_those_among_both_tops() -> None:
    scores = np.arange(30.0)
    assert overlap(scores, scores) == 1
    assert overlap(scores, -scores) == 0
    assert overlap(scores, np.where(scores < 25, scores, -scores)) == 0.5
    assert overlap(scores[:3], -scores[:3]) == 1


def test_the_split_is_stable_even_and_independent_of_another_salt() -> None:
    places = np.array([place_of(str(u), "m/1") for u in range(20_000)])
    assert [place_of(u, "m/1") for u in ("712", "é", "")] == [3627, 4151, 7544], "the split is part of the contract"
    assert np.histogram(places, 10, (0, PLACES))[0].min() > 1800
    other = np.array([place_of(str(u), "m/2") for u in range(20_000)])
    assert abs(np.corrcoef(places, other)[0, 1]) < 0.03
    assert not within("712", "m/1", 0) and within("712", "m/1", 100)


def test_recent_requests_are_bounded_by_number_and_size() -> None:
    recent = RecentRequests()
    for i in range(1000):
        recent.add(Assembly("a" if i % 2 else "b", "712", {}, ["1"]))
    assert len(recent.of("a")) == 128
    for _ in range(1000):
        recent.add(Assembly("a", "712", {}, ["1"] * 2000))
    assert len(recent.of("a")) == 10
    recent.add(Assembly("c", "712", {}, ["1"] * 50_000))
    assert len(recent.of("c")) == 1 and not recent.of("a")


def test_samples_keep_the_newest_scores_of_each_task() -> None:
    samples = ScoreSamples(("pctr", "pcvr"))
    for i in range(1000):
        samples.add(np.full((2, 20), i, dtype=np.float32))
    assert len(samples) == 4000
    assert samples.by_task()["pcvr"].min() == 750


def watched(canary_seconds: float = 0.01, failing: int = 0, shift: float = 0.0, users: int = 200) -> Sides:
    sides = Sides(("pctr",), ("pctr",))
    for i in range(200):
        user = str(i % users)
        sides.note("stable", user, 0.01, False, RANDOM.normal(size=(1, 20)))
        sides.note("canary", user, canary_seconds, i < failing, RANDOM.normal(size=(1, 20)) + shift)
    return sides


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [({"failing": 10}, "error rate 0.050"), ({"canary_seconds": 0.05}, "p95 50.0 ms"), ({"shift": 2.0}, "pctr: PSI")],
)
def test_a_canary_that_breaks_a_limit_is_told_with_the_numbers(spoilt: dict[str, float], message: str) -> None:
    sides = watched(**spoilt)  # type: ignore[arg-type]
    assert message in (sides.verdict(Limits()) or "")
    assert sides.verdict(Limits(psi=None, error_rate=None, latency_ratio=None)) is None
    assert sides.verdict(Limits(min_requests=1000)) is None


@pytest.mark.parametrize("spoilt", [{"failing": 200}, {"canary_seconds": 0.05}, {"shift": 2.0}])
def test_one_user_alone_decides_nothing_about_a_canary(spoilt: dict[str, float]) -> None:
    assert watched(**spoilt, users=1).verdict(Limits(min_requests=10, min_scores=100)) is None  # type: ignore[arg-type]


def test_a_canary_like_the_stable_version_is_left_alone() -> None:
    assert watched().verdict(Limits()) is None
