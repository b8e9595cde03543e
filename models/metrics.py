"""Owns the metrics of a score against its label: ranking (AUC, GAUC, the top of the list) and calibration (log loss, ECE)."""

from dataclasses import asdict, dataclass

import numpy as np

TOP_SHARES = (0.001, 0.006, 0.01)
CALIBRATION_BINS = 15
SUSPICIOUS_AUC = 0.99


@dataclass(frozen=True)
class TopShare:
    """Recall, precision and F1 of the highest-scored `share` of impressions (ESM2 paper, section 4.1.3)."""

    share: float
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class GroupedAuc:
    """`value`: mean over users of their AUC, weighted by impressions; users with one class only are `skipped`, not averaged in."""

    value: float | None
    users: int
    skipped: int


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank, float64 `[n]`."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted as one half (Mann-Whitney U); None if there is one class only."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    rank_sum = average_ranks(scores)[labels > 0].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def gauc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> GroupedAuc:
    """Sum over users of impressions * AUC, divided by the sum of impressions (DIN, equation 7), over users with both classes."""
    if not len(labels):
        return GroupedAuc(None, 0, 0)
    order = np.lexsort((scores, users))
    label = labels[order]
    score = scores[order]
    user = users[order]
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_tie = new_user | np.r_[True, score[1:] != score[:-1]]
    owner = np.cumsum(new_user) - 1
    first = np.flatnonzero(new_user)
    tie = np.cumsum(new_tie) - 1
    tie_first = np.flatnonzero(new_tie)
    tie_count = np.bincount(tie)
    rank = (tie_first + (tie_count - 1) / 2.0)[tie] - first[owner] + 1
    n = np.bincount(owner)
    positives = np.bincount(owner, weights=label)
    negatives = n - positives
    both = (positives > 0) & (negatives > 0)
    rank_sum = np.bincount(owner, weights=rank * label)
    area = (rank_sum - positives * (positives + 1) / 2)[both] / (positives * negatives)[both]
    value = float((area * n[both]).sum() / n[both].sum()) if both.any() else None
    return GroupedAuc(value, int(both.sum()), int((~both).sum()))


def log_loss(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """Mean -[y log p + (1 - y) log(1 - p)] from log p, so that a tiny p loses nothing; p = 1 is taken as 1 - 1e-7."""
    log_p = np.minimum(log_probabilities.astype(np.float64), -1e-7)
    return float(-np.where(labels > 0, log_p, np.log(-np.expm1(log_p))).mean())


def calibration_curve(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> list[tuple[float, float, int]]:
    """`(mean prediction, share of positives, impressions)` of `bins` bins of equal mass, lowest first.

    Equal mass, because rare labels crowd the low end: bins of equal width would put nearly everything into one. Equal predictions stay
    together, so a bin may be larger and the next one missing.
    """
    order = np.argsort(probabilities, kind="stable")
    ranked = probabilities[order].astype(np.float64)
    label = labels[order]
    edges = np.linspace(0, len(ranked), bins + 1).round().astype(int)
    edges = (
        np.unique(np.searchsorted(ranked, ranked[np.minimum(edges[1:-1], max(len(ranked) - 1, 0))], side="left"))
        if len(ranked)
        else edges[:0]
    )
    bounds = np.unique(np.concatenate([[0], edges, [len(ranked)]]))
    return [
        (float(ranked[a:b].mean()), float(label[a:b].mean()), int(b - a))
        for a, b in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def expected_calibration_error(curve: list[tuple[float, float, int]]) -> float:
    """Mean |mean prediction - share of positives| over the bins of a calibration curve, weighted by impressions."""
    n = sum(count for _, _, count in curve)
    return sum(count * abs(predicted - observed) for predicted, observed, count in curve) / n if n else 0.0


def top_share(labels: np.ndarray, scores: np.ndarray, share: float) -> TopShare:
    """Of the `share` highest scores (at least one). Impressions tied at the border enter in proportion, as if drawn at random."""
    k = max(1, round(share * len(labels)))
    ranked = np.sort(scores)[::-1]
    border = ranked[k - 1]
    above = scores > border
    tied = scores == border
    hits = float(labels[above].sum() + labels[tied].mean() * (k - int(above.sum())))
    positives = float(labels.sum())
    recall = hits / positives if positives else 0.0
    precision = hits / k
    return TopShare(share, recall, precision, 2 * recall * precision / (recall + precision) if hits else 0.0)


def of_probability(labels: np.ndarray, log_probabilities: np.ndarray, users: np.ndarray) -> dict[str, object]:
    """All metrics of one probability output as plain numbers, ready for JSON; all arrays `[n]`."""
    if not len(labels):
        return {
            "impressions": 0,
            "positives": 0,
            "auc": None,
            "log_loss": 0.0,
            "ece": 0.0,
            "top": [],
            "calibration": [],
        }
    scores = log_probabilities.astype(np.float64)
    probabilities = np.exp(scores)
    curve = calibration_curve(labels, probabilities)
    return {
        "impressions": len(labels),
        "positives": int(labels.sum()),
        "mean_label": float(labels.mean()),
        "mean_prediction": float(probabilities.mean()),
        "auc": auc(labels, scores),
        "gauc": asdict(gauc(labels, scores, users)),
        "log_loss": log_loss(labels, log_probabilities),
        "ece": expected_calibration_error(curve),
        "top": [asdict(top_share(labels, scores, share)) for share in TOP_SHARES],
        "calibration": [list(point) for point in curve],
    }


def of_choice(log_probabilities: np.ndarray, classes: np.ndarray) -> dict[str, object]:
    """Of impressions where a user chose: how probable the chosen class was, ready for JSON; both arrays `[n]`.

    `log_loss` is the cross entropy of the classes, `share_log_loss` that of knowing the classes' shares in these very impressions and nothing
    of the user: only below it is something learnt. Every impression is a positive, so there is nothing to rank and no calibration.
    """
    if not len(classes):
        return {"impressions": 0, "log_loss": 0.0, "share_log_loss": 0.0}
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    cross_entropy = -float(log_probabilities.astype(np.float64).mean())
    return {
        "impressions": len(classes),
        "log_loss": cross_entropy,
        "share_log_loss": -float((shares * np.log(shares)).sum()),
    }


def of_value(labels: np.ndarray, values: np.ndarray) -> dict[str, object]:
    """Errors of one value output, ready for JSON."""
    error = values.astype(np.float64) - labels
    return {
        "impressions": len(labels),
        "mean_label": float(labels.mean()),
        "mean_prediction": float(values.mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
    }
