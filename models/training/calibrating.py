"""Fits the calibration of a trained ranker on the validation part, whose days no weight was trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.data.batches import ordered_batches
from models.data.cache import Data, labels_of
from models.layers.calibration import Calibration, Isotonic, Platt
from models.network.model import MultiTaskModel
from models.structures.base import Output
from models.training.evaluation import EVALUATION_BATCH, evaluate

FITTED_ON = "validation"
FEWEST = 20  # positives, and negatives, below which a map stays the identity
NEWTON_STEPS = 50


def fit_calibration(ranker: MultiTaskModel, data: Data) -> dict[str, Any]:
    """Fit every factor's map in place; return its part of metrics.json, including each output's ECE before
    calibration.
    """
    calibration = ranker.calibration
    assert calibration is not None
    calibration.enabled = False
    before = {
        part: {name: m["ece"] for name, m in evaluate(ranker, data, part)["outputs"].items() if "ece" in m}
        for part in ("validation", "test")
    }
    logits = _factor_logits(ranker, data)
    calibration.enabled = True
    fitted = {factor.name: _fit(calibration, factor, logits[factor.name], data) for factor in ranker.factors}
    section = calibration.section
    return {
        "method": section.method,
        "fitted_on": FITTED_ON,
        "negative_sampling": dict(section.negative_sampling),
        "factors": fitted,
        "ece_before": before,
    }


def _factor_logits(ranker: MultiTaskModel, data: Data) -> dict[str, np.ndarray]:
    assert ranker.calibration is not None
    collected: dict[str, list[np.ndarray]] = {factor.name: [] for factor in ranker.factors}
    ranker.eval()
    with torch.no_grad():
        for batch in ordered_batches(data, FITTED_ON, EVALUATION_BATCH):
            for name, score in ranker.factor_scores(batch).items():
                collected[name].append(ranker.calibration.shifted(name, score).numpy())
    return {name: np.concatenate(pieces).astype(np.float64) for name, pieces in collected.items()}


def _fit(calibration: Calibration, factor: Output, logits: np.ndarray, data: Data) -> dict[str, Any]:
    space = labels_of(data, FITTED_ON, factor.space) > 0
    label = labels_of(data, FITTED_ON, factor.label)[space].astype(np.float64)
    logit = logits[space]
    positives = int(label.sum())
    described: dict[str, Any] = {
        "label": " AND ".join(factor.label),
        "space": " AND ".join(factor.space) or "impression",
    }
    described |= {"impressions": len(label), "positives": positives}
    if factor.name not in calibration.maps:
        return described
    chosen = calibration.maps[factor.name]
    assert isinstance(chosen, Platt | Isotonic)
    chosen.clear()  # weights taken over from another run bring its map along
    if min(positives, len(label) - positives) < FEWEST:
        return described | {"skipped": f"fewer than {FEWEST} positives or negatives"}
    if isinstance(chosen, Platt):
        slope, intercept = platt(label, logit)
        chosen.set(slope, intercept)
        return described | {"slope": slope, "intercept": intercept}
    points = isotonic(label, logit, calibration.section.knots)
    chosen.set(points)
    return described | {"knots": [list(point) for point in points]}


def platt(label: np.ndarray, logit: np.ndarray) -> tuple[float, float]:
    """Slope and intercept that minimise the log loss, by Newton's method.

    A slope that is not positive would reverse the ranking; the slope is then 1 and only the intercept is fitted.

    The targets are Platt's own (1999, section 2.2), (N+ + 1) / (N+ + 2) and 1 / (N- + 2) instead of 1 and 0: on logits
    that separate the labels, the likelihood of 1 and 0 has no maximum and the slope would grow without end.
    """
    positive = label > 0.5
    positives = int(positive.sum())
    negatives = len(label) - positives
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = _newton(target, logit, free_slope=True)
    return (slope, intercept) if slope > 0 else _newton(target, logit, free_slope=False)


def _newton(target: np.ndarray, logit: np.ndarray, free_slope: bool) -> tuple[float, float]:
    columns = np.stack([logit, np.ones_like(logit)])[0 if free_slope else 1 :]
    line = np.array([1.0, 0.0])
    moving = line[0 if free_slope else 1 :]  # a view: the line moves with it
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(line[0] * logit + line[1], -60, 60)))
        gradient = columns @ (p - target)
        curvature = (columns * (p * (1 - p))) @ columns.T + 1e-9 * np.eye(len(moving))
        step = np.linalg.solve(curvature, gradient)
        moving -= step * min(1.0, 2.0 / np.abs(step).max(initial=1e-12))
        if np.abs(step).max() < 1e-10:
            break
    return float(line[0]), float(line[1])


def isotonic(label: np.ndarray, logit: np.ndarray, knots: int) -> list[tuple[float, float]]:
    """At most `knots` points (mean logit, logit of the share of positives), both strictly rising.

    Impressions go into `knots` groups of equal size by logit, equal logits staying together; neighbours whose shares do
    not rise are pooled (pool adjacent violators). A share is (positives + 1/2) / (n + 1), so that its logit is finite.
    """
    order = np.argsort(logit, kind="stable")
    x = logit[order]
    y = label[order]
    cuts = np.linspace(0, len(x), knots + 1).round().astype(int)[1:-1]
    bounds = np.unique(np.concatenate([[0], np.searchsorted(x, x[cuts], side="left"), [len(x)]]))
    blocks: list[tuple[float, float, int]] = []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        blocks.append((float(x[begin:end].sum()), float(y[begin:end].sum()), int(end - begin)))
        while len(blocks) > 1 and _share(blocks[-2]) >= _share(blocks[-1]):
            last = blocks.pop()
            former = blocks.pop()
            blocks.append((last[0] + former[0], last[1] + former[1], last[2] + former[2]))
    shares = [_share(block) for block in blocks]
    return [
        (block[0] / block[2], float(np.log(share / (1 - share)))) for block, share in zip(blocks, shares, strict=True)
    ]


def _share(block: Sequence[float]) -> float:
    return (block[1] + 0.5) / (block[2] + 1)
