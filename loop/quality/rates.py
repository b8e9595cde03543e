"""Measures how often alarms are false, and how often they find a planted shift: on weeks drawn from a pool of users.

The pool is simulated, or a replayed week: the labels and scores of real impressions.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loop.errors import LogError
from loop.quality.alarms import FEWEST, WEEK_DAYS, Period, moved, threshold
from loop.quality.rows import DAY_MS

LABEL_PREFIX: Final = "label/"  # of a label's column in a file of `funnelrank predict`


@dataclass(frozen=True)
class AlarmRates:
    """How often an alarm was raised in drawn weeks: stable ones, and ones with a planted shift of the predictions."""

    weeks: int
    positives: float  # per week, in the mean
    false_alarms: int
    shift: float
    detected: int


def alarm_rates(pool: Period, weeks: int, shift: float, seed: int) -> AlarmRates:
    """Draw pairs of periods from one pool of users with replacement, so that nothing but chance differs between them.

    Each pair is judged as it is, and again with the week's predictions multiplied by 1 + `shift`. Raises LogError if
    the pool has too few positives for an alarm.
    """
    if pool.labels.sum() < FEWEST:
        raise LogError(
            f"{pool.labels.sum():.0f} positives in a week; below {FEWEST} no alarm is raised: draw more users"
        )
    rng = np.random.default_rng([29, seed])
    users = len(pool.labels)
    limit = threshold(1)
    zeros = np.zeros(users)
    false_alarms = 0
    detected = 0
    counts = []
    for _ in range(weeks):
        first, second = rng.integers(users, size=(2, users))
        before = _padded(pool.drawn(first), zeros, own_first=True)
        stable = pool.drawn(second)
        counts.append(stable.labels.sum())
        false_alarms += abs(moved(before, _padded(stable, zeros, own_first=False))[1]) > limit
        shifted = _padded(pool.drawn(second, 1 + shift), zeros, own_first=False)
        detected += abs(moved(before, shifted)[1]) > limit
    return AlarmRates(weeks, float(np.mean(counts)), int(false_alarms), shift, int(detected))


def _padded(period: Period, zeros: np.ndarray, own_first: bool) -> Period:
    """A period whose users are others than those of the other period."""
    pairs = [(values, zeros) if own_first else (zeros, values) for values in (period.labels, period.predictions)]
    return Period(*(np.concatenate(pair) for pair in pairs))


def simulated_pool(users: int, rate: float, seed: int) -> Period:
    """A week of users who differ in activity and taste, under predictions that do not know each user's taste.

    Impressions per user are geometric with a mean of 20; a user's odds are those of the rate times a log-normal factor
    (sigma 0.5), and those of an impression times another one (sigma 1), which the prediction knows.
    """
    rng = np.random.default_rng([31, seed])
    counts = rng.geometric(1 / 20, size=users)
    owner = np.repeat(np.arange(users), counts)
    known = math.log(rate / (1 - rate)) + rng.normal(0, 1, size=len(owner))
    probability = 1 / (1 + np.exp(-(known + rng.normal(0, 0.5, size=users)[owner])))
    label = rng.random(len(owner)) < probability
    prediction = 1 / (1 + np.exp(-known))
    return Period(
        np.bincount(owner, weights=label, minlength=users), np.bincount(owner, weights=prediction, minlength=users)
    )


def replayed_pool(predictions: Path, label: str, score: str) -> Period:
    """The last week of a file of `funnelrank predict`: the sums of a label and of a score by user.

    Raises LogError if the file cannot be read or lacks a column, and if the label is not 0 or 1.
    """
    names = ["user_id", "time_ms", LABEL_PREFIX + label, score]
    try:
        table = pq.read_table(predictions)
    except (OSError, pa.ArrowException) as error:
        raise LogError(f"{predictions} cannot be read: {error}") from None
    for name in names:
        if name not in table.column_names:
            known = ", ".join(each.removeprefix(LABEL_PREFIX) for each in table.column_names)
            raise LogError(f"{predictions} has no '{name.removeprefix(LABEL_PREFIX)}'; it has {known}")
    times, labels, scores = (table.column(name).to_numpy() for name in names[1:])
    if not np.isin(labels, (0, 1)).all():
        raise LogError(f"{predictions}: the label '{label}' has values other than 0 and 1, so it has no rate")
    # Sum the week's impressions by user.
    in_week = times > times.max(initial=0) - WEEK_DAYS * DAY_MS
    _, owner = np.unique(table.column("user_id").to_numpy(zero_copy_only=False)[in_week], return_inverse=True)
    users = int(owner.max(initial=-1)) + 1
    sums = [np.bincount(owner, weights=values[in_week], minlength=users) for values in (labels, scores)]
    return Period(*sums)
