"""Figures of served probabilities: per version, task, scene and arm, per day and per position; and the invariants."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from loop.quality.rows import OPEN, OUTSIDE, UNKNOWN, MeasuredTask, SeenRows, day_name
from models.metrics import of_probability
from models.metrics.bootstrap import DRAWS, Draws

ALL: Final = "*"  # every scene, or every arm
MOST_POSITIONS: Final = 50
_TINY: Final = 1e-30  # a served 0 has no logarithm
_ROUNDING: Final = 1e-6  # products of float32 factors
_KEPT: Final = ("impressions", "positives", "auc", "log_loss", "ece", "calibration")


def cells(rows: SeenRows, tasks: Sequence[MeasuredTask], seed: int = 0) -> list[dict[str, Any]]:
    """The figures of every version and task over all, then of every scene and arm if there are several."""
    measured = []
    for task, version, of_version in _of_versions(rows, tasks):
        place = {"version": version, "task": task.name}
        measured.append({**place, "scene": ALL, "arm": ALL, **figures(rows, task, of_version, seed)})
        pairs = sorted(set(zip(rows.scene[of_version].tolist(), rows.arm[of_version].tolist(), strict=True)))
        for scene, arm in pairs if len(pairs) > 1 else []:
            chosen = of_version & (rows.scene == scene) & (rows.arm == arm)
            measured.append({**place, "scene": scene, "arm": arm, **figures(rows, task, chosen, seed)})
    return measured


def by_day(rows: SeenRows, tasks: Sequence[MeasuredTask], seed: int = 0) -> list[dict[str, Any]]:
    """The figures of every version and task per day; a day on which a version was not seen is missing."""
    entries = []
    for task, version, of_version in _of_versions(rows, tasks):
        for day in np.unique(rows.day[of_version]).tolist():
            of_day = figures(rows, task, of_version & (rows.day == day), seed)
            of_day.pop("calibration")
            entries.append({"version": version, "task": task.name, "day": day_name(day), **of_day})
    return entries


def empty_days(rows: SeenRows) -> list[str]:
    """The days between the first and the last impression on which nothing was seen."""
    present = set(np.unique(rows.day).tolist())
    return [day_name(day) for day in range(min(present), max(present) + 1) if day not in present]


def figures(rows: SeenRows, task: MeasuredTask, chosen: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """The figures of the impressions `chosen` `[n]`, over matured labels of the task's space, with intervals by user.

    Impressions without a score (a model that failed, a brown-out) count as `unscored` alone.
    `copc` is the sum of the labels divided by the sum of the predictions. GAUC groups by user. A figure that nothing
    can be said about is None; `why` says why.
    """
    outcome = rows.outcome(task)
    scored = np.isfinite(rows.scores[task.name])
    matured = chosen & scored & (outcome >= 0)
    counted = {
        "seen": int(chosen.sum()),
        "open": int((chosen & (outcome == OPEN)).sum()),
        "clock": int((chosen & (outcome == UNKNOWN)).sum()),
        "outside": int((chosen & (outcome == OUTSIDE)).sum()),
        "unscored": int((chosen & ~scored & (outcome >= 0)).sum()),
        "users": len(np.unique(rows.user[matured])),
    }
    labels = outcome[matured].astype(np.float64)
    predicted = rows.scores[task.name][matured]
    users = np.unique(rows.user[matured], return_inverse=True)[1]
    draws = Draws(users, count=DRAWS, seed=seed)
    measured = of_probability(labels, np.log(np.maximum(predicted, _TINY)), users, (), draws)
    result = counted | {name: measured[name] for name in _KEPT}
    grouped = measured["gauc"] or {"value": None, "groups": 0, "skipped": 0}
    result |= {"gauc": grouped["value"], "gauc_users": grouped["groups"]}
    if "why" in measured:
        why = "no matured label" if counted["open"] and not len(labels) else measured["why"]
        return result | {"predicted": None, "observed": None, "copc": None, "intervals": {}, "why": why}
    # A ratio of sums is the mean of label / prediction, weighted by the prediction.
    ones = np.ones(len(labels))
    safe = np.maximum(predicted, _TINY)
    rates = draws.of_means(
        {
            "predicted": (predicted, ones, draws.place),
            "observed": (labels, ones, draws.place),
            "copc": (labels / safe, safe, draws.place),
        }
    )
    of_order = {name: measured["intervals"][name] for name in ("auc", "gauc", "log_loss", "ece")}
    return result | {
        "predicted": float(predicted.mean()),
        "observed": float(labels.mean()),
        "copc": float(labels.sum() / safe.sum()),
        "intervals": rates | of_order,
    }


def by_position(rows: SeenRows, tasks: Sequence[MeasuredTask]) -> list[dict[str, Any]]:
    """Observed and predicted rate per position of every version and task; only matured labels, the first positions."""
    measured = []
    for task, version, of_version in _of_versions(rows, tasks):
        outcome = rows.outcome(task)
        scored = np.isfinite(rows.scores[task.name])
        matured = of_version & scored & (outcome >= 0) & (rows.position <= MOST_POSITIONS)
        place = rows.position[matured]
        counts = np.bincount(place)
        observed = np.bincount(place, weights=outcome[matured])
        predicted = np.bincount(place, weights=rows.scores[task.name][matured])
        for position in np.flatnonzero(counts).tolist():
            n = int(counts[position])
            rates = {"observed": float(observed[position] / n), "predicted": float(predicted[position] / n)}
            measured.append({"version": version, "task": task.name, "position": position, "impressions": n, **rates})
    return measured


def invariants(rows: SeenRows, tasks: Sequence[MeasuredTask]) -> list[dict[str, Any]]:
    """What must hold of a funnel: a probability of more labels is no larger, and a conversion has its click.

    For each rule the number of impressions it was checked on, and of those that break it.
    """
    whole = [task for task in tasks if not task.space]
    checked = []
    for smaller in whole:
        for larger in whole:
            if set(smaller.label) > set(larger.label):
                difference = rows.scores[smaller.name] - rows.scores[larger.name]
                finite = difference[np.isfinite(difference)]
                rule = {"rule": f"{smaller.name} <= {larger.name}", "of": "scores"}
                checked.append({**rule, "impressions": len(finite), "broken": int((finite > _ROUNDING).sum())})
    for space, label in dict.fromkeys((s, name) for task in tasks for s in task.space for name in task.label):
        later = (rows.states[label] == 1) & (rows.states[space] >= 0)
        broken = later & (rows.states[space] == 0)
        rule = {"rule": f"{label} only after {space}", "of": "labels"}
        checked.append({**rule, "impressions": int(later.sum()), "broken": int(broken.sum())})
    return checked


def _of_versions(rows: SeenRows, tasks: Sequence[MeasuredTask]) -> Iterator[tuple[MeasuredTask, str, np.ndarray]]:
    """Each version with each of its tasks, and the mask of its impressions `[n]`."""
    for version in sorted(set(rows.version.tolist())):
        of_version = rows.version == version
        for task in tasks:
            # A version without the task has no score at all.
            if not np.isnan(rows.scores[task.name][of_version]).all():
                yield task, version, of_version
