"""The position-bias tower.

Zhao et al., Recommending What Video to Watch Next: A Multitask Ranking System, RecSys 2019, section 4.3: the click
logit in training is utility(x) + bias(position x device); 10 % of positions are dropped to "missing" so that the
missing value trains. Each head of the recipe has biases of its own, because a purchase after a click depends on the
position in another way than the click. The tower is not served. Its contribution at the missing position, averaged over
the cross values of the training data, stays as a constant in each head's logit: it changes no order within a request
and keeps the probabilities calibrated.
"""

from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from models.options import Column, Name, Options, Rate

# Shape legend: B impressions, H heads with a bias.


class PositionSection(Options):
    """The position-bias tower: its columns, and the head or heads whose logits it shifts in training.

    `cross` names one column or several of the impressions, such as the device and the scene, whose values are texts or
    whole numbers. There is a bias per position and per combination of their values.
    """

    column: Column
    cross: Column | Annotated[tuple[Column, ...], Field(min_length=1)] | None = None
    max_position: Annotated[int, Field(ge=1, le=10_000)] = 100
    drop_rate: Rate = 0.1
    head: Name | Annotated[tuple[Name, ...], Field(min_length=1)]

    @field_validator("cross", "head")
    @classmethod
    def _once(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("names one twice")
        return value

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads whose logits are shifted, each by biases of its own."""
        return (self.head,) if isinstance(self.head, str) else self.head

    @property
    def crossed(self) -> tuple[str, ...]:
        """The columns that the position is crossed with."""
        if self.cross is None:
            return ()
        return (self.cross,) if isinstance(self.cross, str) else self.cross


class PositionTower(nn.Module):
    """A logit per head and cell of position x cross value; position 0 is missing, cross value 0 missing or unknown."""

    cross_counts: Tensor

    def __init__(self, section: PositionSection, cross_values: int) -> None:
        super().__init__()
        self.heads = section.heads
        self.drop_rate = section.drop_rate
        self.cross_values = cross_values
        self.bias = nn.Embedding((section.max_position + 1) * (cross_values + 1), len(self.heads))
        nn.init.zeros_(self.bias.weight)
        self.register_buffer("cross_counts", torch.zeros(cross_values + 1))

    def forward(self, position_B: Tensor, cross_B: Tensor) -> dict[str, Tensor]:
        """Positions and cross values int64 `[B]` -> the shift of each head's logit `[B]`."""
        if self.training:
            position_B = position_B.masked_fill(
                torch.rand(position_B.shape, device=position_B.device) < self.drop_rate, 0
            )
            self.cross_counts += torch.bincount(cross_B, minlength=self.cross_values + 1)
        bias_BH = self.bias(position_B * (self.cross_values + 1) + cross_B)
        return {head: bias_BH[:, i] for i, head in enumerate(self.heads)}

    def missing_constants(self) -> dict[str, Tensor]:
        """The mean of each head's bias(missing, .) over the cross values of the training impressions, scalars."""
        share = self.cross_counts / self.cross_counts.sum().clamp(min=1)
        missing = self.bias.weight[: self.cross_values + 1]
        return {head: (missing[:, i] * share).sum() for i, head in enumerate(self.heads)}
