"""Tests the alarms: their standard error, how often they are false, and that they find a planted shift."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelrank.main import main
from loop.errors import LogError
from loop.quality.alarms import FALSE_ALARMS, Period, alarms, moved, threshold
from loop.quality.rates import alarm_rates, replayed_pool, simulated_pool
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


def predictions(path: Path, **changes: list[float]) -> Path:
    """A file of `funnelrank predict` with impressions of two users, the first of them eight days before the last."""
    last = 20 * DAY_MS
    columns: dict[str, Any] = {
        "user_id": ["a", "b", "a", "b"],
        "item_id": ["1", "2", "3", "4"],
        "time_ms": [last - 8 * DAY_MS, last - 6 * DAY_MS, last - DAY_MS, last],
        "label/is_click": [1.0, 1.0, 0.0, 1.0],
        "pctr": [0.9, 0.5, 0.25, 0.125],
    }
    pq.write_table(pa.table(columns | changes), path)
    return path


def test_a_replayed_week_has_the_sums_of_its_users(tmp_path: Path) -> None:
    pool = replayed_pool(predictions(tmp_path / "scores.parquet"), "is_click", "pctr")
    assert (pool.labels.tolist(), pool.predictions.tolist()) == ([0, 2], [0.25, 0.625])


@pytest.mark.parametrize(
    ("label", "score", "changes", "message"),
    [
        ("is_like", "pctr", {}, "has no 'is_like'; it has user_id, item_id, time_ms, is_click, pctr"),
        ("is_click", "pcvr", {}, "has no 'pcvr'"),
        ("is_click", "pctr", {"label/is_click": [0.0, 1.0, 2.0, 1.0]}, "values other than 0 and 1"),
        ("is_click", "pctr", {"label/is_click": [0.0, 1.0, math.nan, 1.0]}, "values other than 0 and 1"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused(
    tmp_path: Path, label: str, score: str, changes: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(LogError, match=message):
        replayed_pool(predictions(tmp_path / "scores.parquet", **changes), label, score)


def test_the_command_replays_a_week(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real weeks are larger; here every impression is of a user of its own."""
    rng = np.random.default_rng(5)
    n = 4000
    scores = rng.uniform(0.05, 0.4, size=n)
    columns = {
        "user_id": [str(user) for user in range(n)],
        "time_ms": np.full(n, DAY_MS),
        "label/is_click": (rng.random(n) < scores).astype(np.float32),
        "pctr": scores.astype(np.float32),
    }
    pq.write_table(pa.table(columns), tmp_path / "scores.parquet")
    words = ["alarm-rates", "--predictions", str(tmp_path / "scores.parquet"), "--weeks", "200", "--shift", "0.3"]
    assert main(words) == 2
    assert "--predictions needs --label and --score" in capsys.readouterr().err
    assert main([*words, "--label", "is_click", "--score", "pctr"]) == 0
    shown = capsys.readouterr().out
    assert "200 weeks of 4,000 users" in shown
    assert "a shift of +30% is found in 200 (100.0%)" in shown
