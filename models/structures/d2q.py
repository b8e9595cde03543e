"""D2Q: watch time by its quantile among videos of a similar duration.

Zhan et al., Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation, KDD 2022 (arXiv 2206.06003).
A long video is watched longer whatever the interest in it, and is shown more often for that. So the impressions of the
training part are cut into groups of equal size by the item's duration; with F_k the distribution of the watch time in
group k, the head learns the quantile F_k(w) with the squared error, and the output is F_k^-1(sigmoid(logit)). All
groups share one network, which reads the duration if it is a feature.

F_k is stored as its quantiles T_j at the levels (j + 1/2) / M, j = 0 .. M - 1: F_k(T_j) is that level, a time between
two of them has the level between them, and equal quantiles (many times are 0) have the middle of their levels. The
inverse is linear between the levels. Group 0 is for items without a duration: the distribution of all impressions.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from features import FeatureSchema
from models.kinds import Score, TaskKind
from models.kinds.value import Value
from models.options import Column, Name
from models.structures.base import Correction, Output, TaskOptions, weighted
from models.structures.representation import item_numeric_column
from models.structures.statistics import WithStatistics

# Shape legend: B impressions or candidates, K groups, M quantiles.


class D2qOptions(TaskOptions):
    """`name` is the output, `label` the watched time, or `log1p(column)`; `duration` a numeric item feature.

    The impressions are cut into `groups` by the duration; each has `quantiles` points of its distribution.
    """

    type: Literal["d2q"]
    name: Name
    label: Column
    duration: Column
    groups: Annotated[int, Field(ge=1, le=200)] = 30
    quantiles: Annotated[int, Field(ge=4, le=1000)] = 100

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def label_kinds(self) -> dict[str, TaskKind]:
        return {self.label: Value()}

    def build(self, schema: FeatureSchema) -> "D2q":
        return D2q(self, item_numeric_column(schema.item, self.duration, self.name))


class D2q(WithStatistics):
    """One head; the output is the watched time of the label's unit."""

    def __init__(self, options: D2qOptions, column: int) -> None:
        self.heads = (options.name,)
        self.duration = f"item/{options.duration}"
        self.numbers = {self.duration: column}
        self.statistics = self.distributions = Distributions(options.groups, options.quantiles)
        correction = QuantileError(options.name, self.duration, self.distributions)
        self.outputs = (Output(options.name, Value(), (options.label,), correction=correction),)

    def fit(self, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        self.distributions.fit(label, numbers[self.duration])

    def value(self, logits: Mapping[str, Tensor]) -> Tensor:
        level_B = torch.sigmoid(logits[self.heads[0]])
        return self.distributions.time(level_B, logits[self.duration])


class Distributions(nn.Module):
    """The distribution of the label by group of durations: `edges` `[K - 1]`, `table` `[K + 1, M]`, rising by row."""

    edges: Tensor
    table: Tensor
    places: Tensor

    def __init__(self, groups: int, quantiles: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.zeros(groups - 1))
        self.register_buffer("table", torch.linspace(0, 1, quantiles).repeat(groups + 1, 1))
        self.register_buffer("places", torch.arange(quantiles, dtype=torch.float32), persistent=False)

    def fit(self, label: np.ndarray, duration: np.ndarray) -> None:
        """The distributions of labels `[n]` by their durations `[n]`, NaN if missing."""
        quantiles = self.table.shape[1]
        levels = (np.arange(quantiles) + 0.5) / quantiles
        known = ~np.isnan(duration)
        self.table.copy_(torch.from_numpy(np.quantile(label, levels)))
        if not known.any():
            return
        edges = np.quantile(duration[known], np.linspace(0, 1, len(self.edges) + 2)[1:-1]).astype(np.float32)
        self.edges.copy_(torch.from_numpy(edges))
        group = np.searchsorted(edges, duration[known].astype(np.float32), side="right")
        for k in np.unique(group):
            self.table[k + 1] = torch.from_numpy(np.quantile(label[known][group == k], levels))

    def rows(self, duration_B: Tensor) -> Tensor:
        """The quantiles `[B, M]` of the group of each duration `[B]`; NaN has group 0."""
        duration_B1 = duration_B.unsqueeze(-1)
        group_B = (duration_B1 >= self.edges).sum(-1) + 1
        return self.table.index_select(0, torch.where(torch.isnan(duration_B), 0, group_B))

    def level(self, time_B: Tensor, duration_B: Tensor) -> Tensor:
        """F_k of a time `[B]`, between 0 and 1."""
        rows_BM = self.rows(duration_B)
        time_B1 = time_B.unsqueeze(-1)
        below_B = (rows_BM < time_B1).sum(-1) + (rows_BM <= time_B1).sum(-1)
        return below_B / (2 * len(self.places))

    def time(self, level_B: Tensor, duration_B: Tensor) -> Tensor:
        """F_k^-1 of a level `[B]` between 0 and 1."""
        place_B = (level_B * len(self.places) - 0.5).clamp(0, len(self.places) - 1)
        # Each place is a mixture of the two next to it, whose weights are those of linear interpolation.
        weight_BM = torch.relu(1 - (place_B.unsqueeze(-1) - self.places).abs())
        return (weight_BM * self.rows(duration_B)).sum(-1)


class QuantileError(Correction):
    """The squared difference between the head's quantile and that of the label."""

    refuses_list_loss: ClassVar[str] = "is a value"

    def __init__(self, head: str, duration: str, distributions: Distributions) -> None:
        self.head = head
        self.duration = duration
        self.distributions = distributions

    def loss(self, score: Score, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            level_B = self.distributions.level(label_B, logits[self.duration])
        return weighted((torch.sigmoid(logits[self.head]) - level_B) ** 2, batch).mean()
