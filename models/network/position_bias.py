"""Owns the position-bias tower.

Zhao et al., Recommending What Video to Watch Next: A Multitask Ranking System, RecSys 2019, section 4.3: the click logit in
training is utility(x) + bias(position x device); 10 % of positions are dropped to "missing" so that the missing value trains.
At serving the tower is gone. Its contribution at the missing position, the mean over the training data's cross values, stays as
one constant in the head's logit: it moves no rank within a request and keeps the probabilities calibrated.
"""

import torch
from torch import Tensor, nn

from models.recipe.recipe import PositionSection


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
        """Positions and cross values int64 `[B]` -> the logit's shift `[B]`."""
        if self.training:
            position_B = position_B.masked_fill(
                torch.rand(position_B.shape, device=position_B.device) < self.drop_rate, 0
            )
            self.cross_counts += torch.bincount(cross_B, minlength=self.cross_values + 1)
        return self.bias(position_B * (self.cross_values + 1) + cross_B)[:, 0]

    def missing_constant(self) -> Tensor:
        """bias(missing, .) averaged over the cross values of the training impressions, a scalar."""
        share = self.cross_counts / self.cross_counts.sum().clamp(min=1)
        return (self.bias.weight[: self.cross_values + 1, 0] * share).sum()
