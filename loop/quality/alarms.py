"""Raises an alarm if the ratio of observed to predicted labels has moved in the last week.

The week is compared with the days before it, of the same version and task. The statistic is the logarithm of the ratio
of both COPCs, divided by its standard error; users are the independent units, and one who is in both periods counts in
both (linearisation of a ratio with clusters: Cochran, Sampling Techniques, 1977, chapter 6). A report raises a false
alarm with probability `FALSE_ALARMS` at most, however many versions and tasks it has (Bonferroni).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from loop.quality.rows import DAY_MS, MeasuredTask, SeenRows

FALSE_ALARMS: Final = 0.01  # per report
WEEK_DAYS: Final = 7
FEWEST: Final = 100  # positives in each period, below which nothing is said


@dataclass(frozen=True)
class Period:
    """Sums per user `[users]`: labels, and predictions. Both periods of a comparison have the same users, in order."""

    labels: np.ndarray
    predictions: np.ndarray

    @property
    def copc(self) -> float:
        return float(self.labels.sum() / self.predictions.sum())

    def drawn(self, users: np.ndarray, factor: float = 1.0) -> "Period":
        """The users at some places, with predictions multiplied by a factor."""
        return Period(self.labels[users], self.predictions[users] * factor)


def moved(before: Period, week: Period) -> tuple[float, float]:
    """The ratio of the week's COPC to the one before, and its distance from 1 in standard errors (of its logarithm)."""
    influence = np.zeros(len(before.labels))
    for period, sign in ((week, 1.0), (before, -1.0)):
        residual = period.labels - period.copc * period.predictions
        influence += sign * residual / period.labels.sum()
    error = float(np.sqrt((influence**2).sum()))
    ratio = week.copc / before.copc
    return ratio, math.log(ratio) / error if error else 0.0


def threshold(comparisons: int) -> float:
    """The standard errors beyond which a change is an alarm, for a report with so many comparisons."""
    return NormalDist().inv_cdf(1 - FALSE_ALARMS / (2 * max(1, comparisons)))


def alarms(rows: SeenRows, tasks: Sequence[MeasuredTask]) -> list[dict[str, Any]]:
    """Each comparison of a version and task: its ratio, `z`, and `alarm`; None where there are too few positives."""
    compared: list[dict[str, Any]] = []
    for version in sorted(set(rows.version.tolist())):
        for task in tasks:
            before, week = periods(rows, task, version)
            result: dict[str, Any] = {"version": version, "task": task.name, "ratio": None, "z": None, "alarm": None}
            positives = [int(period.labels.sum()) for period in (before, week)]
            result |= {"positives_before": positives[0], "positives_week": positives[1]}
            if min(positives) >= FEWEST:
                result["ratio"], result["z"] = moved(before, week)
            compared.append(result)
    limit = threshold(sum(result["z"] is not None for result in compared))
    for result in compared:
        if result["z"] is not None:
            result["alarm"] = abs(result["z"]) > limit
    return compared


def periods(rows: SeenRows, task: MeasuredTask, version: str) -> tuple[Period, Period]:
    """The days before, and the last week with matured labels, of a version."""
    outcome = rows.outcome(task)
    scores = rows.scores[task.name]
    used = (rows.version == version) & (outcome >= 0) & np.isfinite(scores)
    times = rows.time_ms[used]
    if not len(times):
        nothing = Period(np.zeros(0), np.zeros(0))
        return nothing, nothing
    in_week = times > times.max() - WEEK_DAYS * DAY_MS
    user = np.unique(rows.user[used], return_inverse=True)[1]
    users = int(user.max()) + 1

    def sums(part: np.ndarray) -> Period:
        labels = np.bincount(user[part], weights=outcome[used][part], minlength=users)
        return Period(labels, np.bincount(user[part], weights=scores[used][part], minlength=users))

    return sums(~in_week), sums(in_week)


def lines(compared: Iterable[dict[str, Any]]) -> list[str]:
    """The alarms as text."""
    return [
        f"alarm: {a['version']} {a['task']}: observed / predicted moved by {a['ratio'] - 1:+.1%} in the last week "
        f"({a['z']:+.1f} standard errors)"
        for a in compared
        if a["alarm"]
    ]
