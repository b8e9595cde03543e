"""The calibration maps of a trained ranker: described for a manifest, set again, and inverted."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from models.layers.calibration import Calibration, CalibrationSection, Isotonic, Platt
from models.network.model import MultiTaskModel
from models.training.calibrating import isotonic, platt

# A description of a map is {"slope", "intercept"} (Platt), or {"knots": [[logit, calibrated logit], ...]} (isotonic).
Described = Mapping[str, Any]
IDENTITY: Final[Described] = {"slope": 1.0, "intercept": 0.0}
KNOTS: Final = 20


def fitted(method: str, label: np.ndarray, logit: np.ndarray) -> Described:
    """Fit a map from logits `[n]` to labels of 0 and 1 `[n]`."""
    if method == "platt":
        slope, intercept = platt(label, logit)
        return {"slope": slope, "intercept": intercept}
    return {"knots": [list(point) for point in isotonic(label, logit, KNOTS)]}


def applied(described: Described, logit: np.ndarray) -> np.ndarray:
    """The calibrated logits `[n]`."""
    if "slope" in described:
        return np.asarray(described["slope"] * logit + described["intercept"])
    x, y = np.array(described["knots"], dtype=np.float64).T
    return _through(x, y, logit)


def inverted(described: Described, calibrated: np.ndarray) -> np.ndarray:
    """The logits `[n]` that a map gave these calibrated logits."""
    if "slope" in described:
        return np.asarray((calibrated - described["intercept"]) / described["slope"])
    x, y = np.array(described["knots"], dtype=np.float64).T
    return _through(y, x, calibrated)


def _through(x: np.ndarray, y: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A rising piecewise linear function through points, with slope 1 outside of them."""
    outside = np.minimum(values - x[0], 0) + np.maximum(values - x[-1], 0)
    return np.asarray(np.interp(values, x, y) + outside)


def described(ranker: MultiTaskModel, factor: str) -> Described:
    """The present map of a factor."""
    if ranker.calibration is None or factor not in ranker.calibration.maps:
        return IDENTITY
    module = ranker.calibration.maps[factor]
    if isinstance(module, Platt):
        slope, intercept = module.line.tolist()
        return {"slope": slope, "intercept": intercept}
    assert isinstance(module, Isotonic)
    x = torch.unique(torch.cat([module.low, module.high])).to(torch.float32)
    # Pieces without length end at 0, which is a point of the function like any other.
    return {"knots": torch.stack([x, module(x)], dim=1).tolist()}


def with_maps(ranker: MultiTaskModel, maps: Mapping[str, Described]) -> None:
    """Set maps of some factors in place; the others keep theirs, and so does the correction of sampled negatives."""
    present = {factor.name: described(ranker, factor.name) for factor in ranker.factors}
    before = ranker.calibration
    sampling = {} if before is None else dict(before.section.negative_sampling)
    section = CalibrationSection(method="platt", negative_sampling=sampling)
    ranker.calibration = Calibration(section, list(present))
    for name, chosen in {**present, **maps}.items():
        if "slope" in chosen:
            line = ranker.calibration.maps[name]
            assert isinstance(line, Platt)
            line.set(chosen["slope"], chosen["intercept"])
        else:
            curve = Isotonic(max(2, len(chosen["knots"])))
            curve.set([(x, y) for x, y in chosen["knots"]])
            ranker.calibration.maps[name] = curve
    ranker.eval()
