"""CREAD: watch time by the probabilities that it reaches thresholds, from which it is restored.

Sun et al., CREAD: A Classification-Restoration Framework with Error Adaptive Discretization for Watch Time Prediction
in Video Recommender Systems, AAAI 2024 (arXiv 2401.07521). With thresholds t_1 < ... < t_M, t_0 = 0 and one logit for
each, phi_m = sigmoid(logit_m) is the probability that the time reaches t_m, and the output is
sum_m phi_m (t_m - t_{m-1}). Three losses: the log losses of the M questions, the Huber loss of the restored time, and
sum_m max(0, phi_{m+1} - phi_m), since the probability of a later threshold is not larger.

In the paper a time exceeds t_m. That is the same for times without ties. A time that many impressions have is a
threshold itself, and the sum would lack the bucket below it.

The thresholds balance the error of learning (few examples in a bucket) and that of restoring (wide buckets): t_m is the
quantile of the training part at the level gamma(m / (M + 1)), gamma(z) = (1 - exp(-alpha z)) / (1 - exp(-alpha)). The
larger alpha is, the fewer examples are in the buckets at the long end; near 0 all have equal numbers. The largest time
is a threshold only if many impressions have it. The Huber loss reads times divided by their mean in the training
part.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from features import FeatureSchema
from models.errors import RecipeError
from models.kinds import Score, TaskKind
from models.kinds.value import Value
from models.layers.probability import log_loss, of_logit
from models.options import Column, Name, Positive
from models.structures.base import Correction, Output, TaskOptions, weighted
from models.structures.statistics import WithStatistics

# Shape legend: B impressions or candidates, M thresholds.


class CreadOptions(TaskOptions):
    """`name` is the output, `label` the watched time, or `log1p(column)`; it must not be negative.

    `thresholds` is their number and `alpha` their place; `restoration` and `order` weigh the two other losses against
    the mean log loss of a threshold.
    """

    type: Literal["cread"]
    name: Name
    label: Column
    thresholds: Annotated[int, Field(ge=2, le=200)] = 32
    alpha: Positive = 1.0
    restoration: Annotated[float, Field(ge=0)] = 1.0
    order: Annotated[float, Field(ge=0)] = 1.0

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def label_kinds(self) -> dict[str, TaskKind]:
        return {self.label: Value()}

    def build(self, schema: FeatureSchema) -> "Cread":
        return Cread(self)


class Cread(WithStatistics):
    """One head with a logit per threshold; the output is the watched time in the label's unit."""

    def __init__(self, options: CreadOptions) -> None:
        self.heads = (options.name,)
        self.width = options.thresholds
        self.statistics = self.buckets = TimeBuckets(options.thresholds)
        correction = ClassificationAndRestoration(options, self.buckets)
        self.outputs = (Output(options.name, Value(), (options.label,), correction=correction),)
        self.alpha = options.alpha

    def fit(self, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        if label.min() < 0:
            column = self.outputs[0].label[0]
            problem = f"label '{column}' of a cread task is a time, and must not be negative; found {label.min():g}"
            raise RecipeError(f"tasks: {problem}", ("tasks",), column)
        self.buckets.fit(label, self.alpha)

    def value(self, logits: Mapping[str, Tensor]) -> Tensor:
        return self.buckets.restored(torch.sigmoid(logits[self.heads[0]]))


class TimeBuckets(nn.Module):
    """The thresholds `[M]`, the widths of the buckets below them `[M]`, and the mean of the label."""

    thresholds: Tensor
    widths: Tensor
    mean: Tensor

    def __init__(self, thresholds: int) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.linspace(0, 1, thresholds))
        self.register_buffer("widths", torch.full((thresholds,), 1 / thresholds))
        self.register_buffer("mean", torch.ones(()))

    def fit(self, label: np.ndarray, alpha: float) -> None:
        """Thresholds by error-adaptive discretisation of labels `[n]`."""
        place = np.arange(1, len(self.thresholds) + 1) / (len(self.thresholds) + 1)
        level = np.expm1(-alpha * place) / np.expm1(-alpha)
        thresholds = np.quantile(label, level)
        self.thresholds.copy_(torch.from_numpy(thresholds))
        self.widths.copy_(torch.from_numpy(np.diff(thresholds, prepend=0.0)))
        self.mean.copy_(torch.tensor(max(float(label.mean()), 1e-6)))

    def reached(self, label_B: Tensor) -> Tensor:
        """Which thresholds a time reaches, bool `[B, M]`. No time reaches a threshold of 0 without being above it."""
        label_B1 = label_B.unsqueeze(-1)
        return (label_B1 >= self.thresholds) & (label_B1 > 0)

    def restored(self, phi_BM: Tensor) -> Tensor:
        """Probabilities that the thresholds are reached `[B, M]` -> the time `[B]`."""
        return (phi_BM * self.widths).sum(-1)


class ClassificationAndRestoration(Correction):
    """The losses of the thresholds, of the restored time and of the order of the probabilities."""

    refuses_list_loss: ClassVar[str] = "is a value"

    def __init__(self, options: CreadOptions, buckets: TimeBuckets) -> None:
        self.options = options
        self.buckets = buckets

    def loss(self, score: Score, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> Tensor:
        logit_BM = logits[self.options.name]
        reached_BM = self.buckets.reached(label_B).to(logit_BM.dtype)
        classification = weighted(log_loss(of_logit(logit_BM), reached_BM), batch).mean()
        phi_BM = torch.sigmoid(logit_BM)
        restored_B = self.buckets.restored(phi_BM)
        error_B = huber_loss(restored_B / self.buckets.mean, label_B / self.buckets.mean, reduction="none")
        restoration = weighted(error_B, batch).mean()
        order = weighted(torch.relu(phi_BM[..., 1:] - phi_BM[..., :-1]).sum(-1), batch).mean()
        return classification + self.options.restoration * restoration + self.options.order * order
