"""The calibration in the graph: the correction for sampled negatives, and a monotone map fitted on held-out days.

Both act on the factors of a score (the probability of an independent task, or the conditional probabilities of a chain)
in logit space, after training. The outputs of a chain are then multiplied from calibrated factors, so pctcvr = pctr *
pcvr and pctavr <= pctr hold to the last bit; calibrating pctcvr itself would fit it better and break that.

Sampling: if training uses a share r of the negatives, p is too high, and p / (p + (1 - p) / r) corrects it (He et al.,
Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014, section 6.3): in logits, a shift by log r.
"""

import math
from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.probability import LogProbability, of_logit
from models.options import Name, Options


class CalibrationSection(Options):
    """Calibrates factors: an independent probability, or the `pctr`, `pcvr` and (ESM2) `pavr` that a chain multiplies.

    `negative_sampling`: the share of a factor's negatives that the training part has; validation and test must be
    whole. `method` is fitted on the validation part, `knots` bounds an isotonic map.
    """

    method: Literal["none", "platt", "isotonic"] = "platt"
    knots: Annotated[int, Field(ge=2, le=200)] = 20
    negative_sampling: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)


class Platt(nn.Module):
    """logit -> slope * logit + intercept (Platt 1999)."""

    line: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("line", torch.tensor([1.0, 0.0]))

    def forward(self, logit: Tensor) -> Tensor:
        return logit * self.line[0] + self.line[1]

    def clear(self) -> None:
        """Reset to the identity."""
        self.set(1.0, 0.0)

    def set(self, slope: float, intercept: float) -> None:
        self.line.copy_(torch.tensor([slope, intercept]))


class Isotonic(nn.Module):
    """logit -> a rising, piecewise linear function through at most `knots` points, with slope 1 outside of them.

    f(x) = x + sum over pieces of (slope - 1) (min(max(x, low), high) - low) + shift: comparisons and a product, no
    search. It rises everywhere, so it changes no order. Pieces that are not needed have no length.
    """

    low: Tensor
    high: Tensor
    extra: Tensor
    shift: Tensor

    def __init__(self, knots: int) -> None:
        super().__init__()
        for name, size in (("low", knots - 1), ("high", knots - 1), ("extra", knots - 1), ("shift", 1)):
            self.register_buffer(name, torch.zeros(size))

    def forward(self, logit: Tensor) -> Tensor:
        inside = torch.minimum(torch.maximum(logit.unsqueeze(-1), self.low), self.high) - self.low
        return logit + (inside * self.extra).sum(-1) + self.shift

    def clear(self) -> None:
        """Reset to the identity."""
        self.set([(0.0, 0.0)])

    def set(self, points: Collection[tuple[float, float]]) -> None:
        """Set the function to pass through points (logit, calibrated logit); both coordinates must rise."""
        x, y = list(zip(*points, strict=True))
        pieces = len(points) - 1
        low = torch.zeros_like(self.low)
        high = torch.zeros_like(self.high)
        extra = torch.zeros_like(self.extra)
        low[:pieces] = torch.tensor(x[:-1])
        high[:pieces] = torch.tensor(x[1:])
        extra[:pieces] = torch.tensor([(y[i + 1] - y[i]) / (x[i + 1] - x[i]) - 1 for i in range(pieces)])
        self.low.copy_(low)
        self.high.copy_(high)
        self.extra.copy_(extra)
        self.shift.copy_(torch.tensor([y[0] - x[0]]))


class Calibration(nn.Module):
    """One map per probability factor, which is the identity until it is fitted. `enabled` switches all maps off."""

    def __init__(self, section: CalibrationSection, factors: Collection[str]) -> None:
        super().__init__()
        self.enabled = True
        self.section = section
        self.shifts = {name: math.log(rate) for name, rate in section.negative_sampling.items()}
        self.maps = nn.ModuleDict()
        if section.method != "none":
            self.maps.update(
                {name: Platt() if section.method == "platt" else Isotonic(section.knots) for name in factors}
            )

    def shifted(self, name: str, p: LogProbability) -> Tensor:
        """The logit of a factor `[n]`, corrected for sampled negatives."""
        return p.yes - p.no + self.shifts.get(name, 0.0)

    def forward(self, name: str, p: LogProbability) -> LogProbability:
        """Convert a factor of the network to the calibrated factor, `[n]` each."""
        if not self.enabled or not (name in self.maps or name in self.shifts):
            return p
        logit = self.shifted(name, p)
        return of_logit(self.maps[name](logit) if name in self.maps else logit)
