"""The position-bias tower.

Zhao et al., Recommending What Video to Watch Next: A Multitask Ranking System, RecSys 2019, section 4.3: the click
logit in training is utility(x) + bias(position x device); 10 % of positions are dropped to "missing" so that the
missing value trains. The tower is not served. Its contribution at the missing position, averaged over the cross values
of the training data, stays as a constant in the head's logit: it changes no order within a request and keeps the
probabilities calibrated.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from models.options import Column, Name, Options, Rate

# Shape legend: B impressions.


class PositionSection(Options):
    """The position-bias tower: its columns, and the head whose logit it shifts in training."""

    column: Column
    cross: Column | None = None
    max_position: Annotated[int, Field(ge=1, le=10_000)] = 100
    drop_rate: Rate = 0.1
    head: Name


class PositionTower(nn.Module):
    """A scalar logit per cell of position x cross value; position 0 is missing, cross value 0 is missing or unknown."""

    cross_counts: Tensor

    def __init__(self, section: PositionSection, cross_values: int) -> None:
        super().__init__()
        self.head = section.head
        self.drop_rate = section.drop_rate
        self.cross_values = cross_values
        self.bias = nn.Embedding((section.max_position + 1) * (cross_values + 1), 1)
        nn.init.zeros_(self.bias.weight)
        self.register_buffer("cross_counts", torch.zeros(cross_values + 1))

    def forward(self, position_B: Tensor, cross_B: Tensor) -> Tensor:
        """Positions and cross values int64 `[B]` -> the shift of the logit `[B]`."""
        if self.training:
            position_B = position_B.masked_fill(
                torch.rand(position_B.shape, device=position_B.device) < self.drop_rate, 0
            )
            self.cross_counts += torch.bincount(cross_B, minlength=self.cross_values + 1)
        return self.bias(position_B * (self.cross_values + 1) + cross_B)[:, 0]

    def missing_constant(self) -> Tensor:
        """The mean of bias(missing, .) over the cross values of the training impressions, a scalar."""
        share = self.cross_counts / self.cross_counts.sum().clamp(min=1)
        return (self.bias.weight[: self.cross_values + 1, 0] * share).sum()
