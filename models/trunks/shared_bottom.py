"""Shared bottom: one network for all heads.

Caruana, Multitask Learning, Machine Learning 1997; equation 1 of the MMoE paper: y_k = h_k(f(x)).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.layers.linear import GroupedMlp, PartLinear
from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates.


class SharedBottomOptions(TrunkOptions):
    """The widths of the hidden layers that all heads share."""

    takes_batch_norm: ClassVar[bool] = True
    type: Literal["shared_bottom"]
    hidden: Hidden = (128, 64)

    def build(self, spec: TrunkSpec) -> "SharedBottom":
        return SharedBottom(spec.in_widths, self.hidden, spec.dropout, spec.batch_norm)


class SharedBottom(Trunk):
    """One ReLU network of widths `hidden`; the towers of all heads read the same vector."""

    def __init__(
        self, in_widths: Sequence[int], hidden: Sequence[int], dropout: float, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.out_width = hidden[-1]
        self.first = PartLinear(in_widths, hidden[0], normed=hidden[0] if batch_norm else 0)
        self.rest = GroupedMlp(1, hidden, dropout, last_linear=False, batch_norm=batch_norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[1, B, out_width]`, which the towers broadcast."""
        return self.rest(self.dropout(torch.relu(self.first(inputs.parts))).unsqueeze(0))
