"""Computes all metrics of one output by kind, as plain numbers for JSON; an unknown figure is None, with a reason in
`why`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from models.metrics.bootstrap import Draws
from models.metrics.calibration import calibration_curve, expected_calibration_error, log_loss
from models.metrics.gains import gain_metrics
from models.metrics.ranking import CUTOFFS, TOP_SHARES, auc, list_metrics, top_share

SUSPICIOUS_AUC = 0.99


def of_probability(
    labels: np.ndarray,
    log_probabilities: np.ndarray,
    groups: np.ndarray,
    cutoffs: Sequence[int] = CUTOFFS,
    draws: Draws | None = None,
    gains: np.ndarray | None = None,
) -> dict[str, Any]:
    """The metrics of a probability; all arrays `[n]`, `groups` the request or user of each impression.

    With `draws`, every figure has an interval. With `gains`, nDCG by the gains of several labels is a metric too.
    """
    if why := _unmeasurable(labels, log_probabilities):
        names = ("auc", "gauc", *(f"{m}@{k}" for m in ("ndcg", "recall") for k in cutoffs), "mrr", "log_loss", "ece")
        counted = {"impressions": len(labels), "positives": int(labels.sum())}
        names += tuple(f"gain_ndcg@{k}" for k in cutoffs if gains is not None)
        return counted | dict.fromkeys(names) | {"top": [], "calibration": [], "why": why}
    # In float64, because sums of float32 over many impressions would lose digits.
    scores = log_probabilities.astype(np.float64)
    probabilities = np.exp(scores)
    curve = calibration_curve(labels, probabilities)
    lists = list_metrics(labels, scores, groups, cutoffs)
    means = lists.means()
    grouped = {"value": means.pop("gauc"), "groups": len(lists.group), "skipped": lists.skipped}
    measured: dict[str, Any] = {
        "impressions": len(labels),
        "positives": int(labels.sum()),
        "mean_label": float(labels.mean()),
        "mean_prediction": float(probabilities.mean()),
        "auc": auc(labels, scores),
        "gauc": grouped,
        **means,
        "log_loss": log_loss(labels, log_probabilities),
        "ece": expected_calibration_error(curve),
        "top": [asdict(top_share(labels, scores, share)) for share in TOP_SHARES],
        "calibration": [list(point) for point in curve],
    }
    if draws is not None:
        measured["intervals"] = draws.of_probability(labels, scores, lists)
    if gains is not None:
        graded = gain_metrics(gains, scores, groups, cutoffs)
        measured |= graded.means()
        if draws is not None:
            measured["intervals"] |= draws.of_lists(graded)
    return measured


def of_choice(log_probabilities: np.ndarray, classes: np.ndarray, draws: Draws | None = None) -> dict[str, Any]:
    """Metrics of impressions in which a user chose: the probability of the chosen class; both arrays `[n]`.

    `log_loss` is the cross entropy of the classes. `share_log_loss` is that of a prediction from the classes' shares in
    these impressions; a model that knows something about the user is below it. Every impression is a positive, so there
    is no ranking metric and no calibration.
    """
    if why := _unmeasurable(classes, log_probabilities):
        return {"impressions": len(classes), "log_loss": None, "share_log_loss": None, "why": why}
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    losses = -log_probabilities.astype(np.float64)
    measured: dict[str, Any] = {
        "impressions": len(classes),
        "log_loss": float(losses.mean()),
        "share_log_loss": -float((shares * np.log(shares)).sum()),
    }
    if draws is not None:
        measured["intervals"] = {"log_loss": draws.of_mean(losses)}
    return measured


def of_value(labels: np.ndarray, values: np.ndarray, draws: Draws | None = None) -> dict[str, Any]:
    """The errors of a value; both arrays `[n]`."""
    if why := _unmeasurable(labels, values):
        return {"impressions": len(labels), "rmse": None, "mae": None, "why": why}
    error = values.astype(np.float64) - labels
    measured: dict[str, Any] = {
        "impressions": len(labels),
        "mean_label": float(labels.mean()),
        "mean_prediction": float(values.mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
    }
    if draws is not None:
        squared = draws.of_mean(error**2)
        rooted = None if squared is None else [float(np.sqrt(end)) for end in squared]
        measured["intervals"] = {"rmse": rooted, "mae": draws.of_mean(np.abs(error))}
    return measured


def _unmeasurable(labels: np.ndarray, scores: np.ndarray) -> str | None:
    """Return why nothing can be measured, or None."""
    if not len(labels):
        return "no impression of its space"
    bad = int((~np.isfinite(scores)).sum())
    return f"{bad:,} of {len(scores):,} scores are not finite" if bad else None
