"""Metrics of predicted probabilities: log loss and expected calibration error."""

import numpy as np

CALIBRATION_BINS = 15


def log_losses(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """-[y log p + (1 - y) log(1 - p)] per impression `[n]`, computed from log p, so that a tiny p keeps its precision.

    p = 1 counts as 1 - 1e-7.
    """
    log_p = np.minimum(log_probabilities.astype(np.float64), -1e-7)
    return np.asarray(-np.where(labels > 0, log_p, np.log(-np.expm1(log_p))))


def log_loss(labels: np.ndarray, log_probabilities: np.ndarray) -> float:
    """The mean of `log_losses`."""
    return float(log_losses(labels, log_probabilities).mean())


def bin_of(probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """The bin of each impression, int64 `[n]`: `bins` bins of equal size by prediction, lowest first.

    The bins have equal size, because rare labels have mostly low predictions: bins of equal width would put nearly
    everything into one bin. Equal predictions stay together, so a bin may be larger and the next one missing.
    """
    ranked = np.sort(probabilities)
    places = np.linspace(0, len(ranked), bins + 1).round().astype(int)[1:-1]
    borders = np.unique(ranked[np.minimum(places, max(len(ranked) - 1, 0))]) if len(ranked) else ranked
    number = np.searchsorted(borders, probabilities, side="right")
    return np.unique(number, return_inverse=True)[1]


def calibration_curve(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> list[tuple[float, float, int]]:
    """`(mean prediction, share of positives, impressions)` of `bins` bins of equal size, lowest first."""
    number = bin_of(probabilities, bins)
    counts = np.bincount(number)
    predicted = np.bincount(number, weights=probabilities.astype(np.float64)) / counts
    observed = np.bincount(number, weights=labels) / counts
    return [(float(p), float(o), int(n)) for p, o, n in zip(predicted, observed, counts, strict=True)]


def expected_calibration_error(curve: list[tuple[float, float, int]]) -> float:
    """Mean |mean prediction - share of positives| over the bins of a calibration curve, weighted by impressions."""
    n = sum(count for _, _, count in curve)
    return sum(count * abs(predicted - observed) for predicted, observed, count in curve) / n if n else 0.0
