"""Owns the shared bottom: one network for all heads.

Caruana, Multitask Learning, Machine Learning 1997; as equation 1 of the MMoE paper: y_k = h_k(f(x)).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.linear import GroupedMlp, PartLinear


class SharedBottom(nn.Module):
    """One ReLU network of widths `hidden`; every head's tower reads the same vector."""

    def __init__(self, in_widths: Sequence[int], heads: Sequence[str], hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.out_width = hidden[-1]
        self.first = PartLinear(in_widths, hidden[0])
        self.rest = GroupedMlp(1, hidden, dropout, last_linear=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[B or 1, width]` -> `[1, B, out_width]`, which the towers broadcast."""
        return self.rest(self.dropout(torch.relu(self.first(parts))).unsqueeze(0))

    def gate_means(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """No gates here."""
        return {}
