"""Tests the alarms: their standard error, how often they are false, and that they find a planted shift."""

import math

import numpy as np
import pytest

from loop.quality.alarms import FALSE_ALARMS, Period, alarm_rates, alarms, moved, simulated_pool, threshold
from loop.quality.rows import DAY_MS, MeasuredTask, SeenRows

TASK = MeasuredTask("pctr", ("click",), ())


def test_the_standard_error_is_that_of_a_bootstrap_by_user() -> None:
    """Users are in both periods, with a taste of their own, so both COPCs err together."""
    rng = np.random.default_rng(3)
    taste = rng.lognormal(0, 0.5, size=3000)
    before, week = (Period(rng.poisson(2 * taste).astype(float), np.full(3000, 2.0)) for _ in range(2))
    ratio, z = moved(before, week)
    drawn = []
    for _ in range(2000):
        users = rng.integers(3000, size=3000)
        drawn.append(math.log(week.drawn(users).copc / before.drawn(users).copc))
    assert math.log(ratio) / z == pytest.approx(np.std(drawn), rel=0.06)


def test_false_alarms_are_as_rare_as_stated_and_a_shift_of_a_tenth_is_found() -> None:
    rates = alarm_rates(simulated_pool(20_000, 0.05, seed=7), weeks=400, shift=0.1, seed=7)
    # 1 % of 400 is 4; more than 11 would have a probability of 0.1 %.
    assert rates.false_alarms <= 11
    assert rates.detected == 400
    # A smaller shift than chance's is found as rarely as none.
    assert alarm_rates(simulated_pool(300, 0.05, seed=7), weeks=400, shift=0.0, seed=7).detected <= 11


def test_more_comparisons_raise_the_threshold() -> None:
    assert threshold(1) == pytest.approx(2.5758, abs=1e-4)
    assert threshold(10) == pytest.approx(3.2905, abs=1e-4)
    assert FALSE_ALARMS == 0.01


def rows_of(shift: float, users: int = 2000, days: int = 21) -> SeenRows:
    """One impression per user and day; in the last week the observed rate is changed."""
    rng = np.random.default_rng(11)
    day = np.repeat(np.arange(days), users)
    n = len(day)
    rate = np.where(day >= days - 7, 0.2 * (1 + shift), 0.2)
    text = np.full(n, "1")
    return SeenRows(
        version=text,
        scene=np.full(n, ""),
        arm=np.full(n, ""),
        user=np.tile(np.arange(users).astype(str), days),
        time_ms=day * DAY_MS + 1000,
        position=np.ones(n, int),
        states={"click": (rng.random(n) < rate).astype(np.int8)},
        scores={"pctr": np.full(n, 0.2)},
        watermark_ms=days * DAY_MS,
    )


@pytest.mark.parametrize(("shift", "alarm"), [(0.0, False), (-0.1, True)])
def test_the_last_week_is_compared_with_the_days_before(shift: float, alarm: bool) -> None:
    (compared,) = alarms(rows_of(shift), [TASK])
    assert compared["alarm"] is alarm
    assert compared["ratio"] == pytest.approx(1 + shift, abs=0.03)
    assert 0.9 < compared["positives_before"] / (2 * compared["positives_week"]) * (1 + shift) < 1.1


def test_too_few_labels_say_nothing() -> None:
    (compared,) = alarms(rows_of(0.0, users=20), [TASK])
    assert compared["alarm"] is None and compared["ratio"] is None
