"""Owns YouTube's trunk: one shared hidden layer, and a mixture of experts on top of it.

Zhao et al., Recommending What Video to Watch Next: A Multitask Ranking System, RecSys 2019, section 4.2: a bottom layer that all tasks
share keeps the experts small; experts and linear gates read that layer, not the input: with s(x) = relu(W x + b),
f^k(x) = sum_i g^k(s(x))_i f_i(s(x)) (equation 2), g^k(x) = softmax(W_gk s(x)) (equation 3). Section 5.2.4: in training each expert is
left out of a gate with probability 10 % and the gate renormalised, against gates that polarise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.gates import Gating
from models.layers.linear import PartLinear
from models.trunks.mmoe import Mmoe


class Youtube2019(nn.Module):
    """`shared_width`: width of the layer below the experts; the rest as in a mixture of experts."""

    def __init__(
        self,
        in_widths: Sequence[int],
        heads: Sequence[str],
        shared_width: int,
        experts: int,
        hidden: Sequence[int],
        dropout: float,
        expert_dropout: float,
    ) -> None:
        super().__init__()
        self.shared = PartLinear(in_widths, shared_width)
        self.dropout = nn.Dropout(dropout)
        self.mixture = Mmoe((shared_width,), heads, experts, hidden, dropout, expert_dropout)
        self.out_width = self.mixture.out_width

    def _shared(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [self.dropout(torch.relu(self.shared(parts)))]

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[B or 1, width]` -> `[H, B, out_width]`, by head in order."""
        return self.mixture(self._shared(parts))

    def gating(self, parts: Sequence[Tensor]) -> Gating:
        """The gates by head and the experts' outputs."""
        return self.mixture.gating(self._shared(parts))

    def gate_means(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`, by head."""
        return self.mixture.gate_means(self._shared(parts))
