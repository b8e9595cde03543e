"""AITM: what a head has learnt about one step of a funnel is handed to the head of the next step.

Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in Targeted
Display Advertising, KDD 2021 (arXiv 2105.08489). With v the input and t the heads in order:
  q_t = f_t(v), a network per head;  z_1 = q_1;  p_{t-1} = g_{t-1}(z_{t-1})
  z_t = sum_u w_u h1_t(u) over u = p_{t-1}, q_t, with w = softmax over u of <h2_t(u), h3_t(u)> / sqrt(width of u)
The towers read z_t. g is one layer with ReLU, h1 to h3 are linear. The steps and the loss that keeps a later step below
the one before are the task `conversion_steps`; heads of other tasks are a sequence too, in the order of the recipe.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec
from models.trunks.separate import Separate

# Shape legend: B impressions or candidates, H heads, X width of the last layer, U the two vectors that are mixed.


class AitmOptions(TrunkOptions):
    """`hidden`: the layers of each head; the last width is also that of what one head hands to the next."""

    type: Literal["aitm"]
    hidden: Hidden = (128, 64)

    def build(self, spec: TrunkSpec) -> "Aitm":
        return Aitm(spec, self.hidden)


class Transfer(nn.Module):
    """AIT: mixes what the step before hands over with the step's own vector, by attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.handed = nn.Linear(width, width)  # g
        self.value, self.query, self.key = (nn.Linear(width, width) for _ in range(3))  # h1, h2, h3

    def weights(self, before_BX: Tensor, own_BX: Tensor) -> tuple[Tensor, Tensor]:
        """z_{t-1} and q_t -> the vectors u `[U, B, X]` and their weights `[U, B]`."""
        u_UBX = torch.stack([torch.relu(self.handed(before_BX)), own_BX])
        raw_UB = (self.query(u_UBX) * self.key(u_UBX)).sum(-1) / math.sqrt(own_BX.shape[-1])
        return u_UBX, torch.softmax(raw_UB, 0)

    def forward(self, before_BX: Tensor, own_BX: Tensor) -> Tensor:
        """z_{t-1} and q_t `[B, X]` -> z_t `[B, X]`."""
        u_UBX, weights_UB = self.weights(before_BX, own_BX)
        return (weights_UB.unsqueeze(-1) * self.value(u_UBX)).sum(0)


class Aitm(Trunk):
    """A network per head, and a transfer from each head to the next."""

    def __init__(self, spec: TrunkSpec, hidden: Sequence[int]) -> None:
        super().__init__()
        self.own = Separate(spec.in_widths, spec.heads, hidden, spec.dropout)
        self.out_width = hidden[-1]
        self.transfers = nn.ModuleList([Transfer(hidden[-1]) for _ in spec.heads[1:]])

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, by head in order."""
        first_BX, *others = self.own(inputs).unbind(0)
        z = [first_BX]
        for transfer, own_BX in zip(self.transfers, others, strict=True):
            z.append(transfer(z[-1], own_BX))
        return torch.stack(z)
