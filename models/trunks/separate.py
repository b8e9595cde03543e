"""Owns the trunk of separate towers over shared embeddings, as ESMM and ESM2 have it: nothing but embeddings is shared."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.linear import GroupedMlp, PartLinear

# Shape legend: B impressions or candidates, H heads, X width of a hidden layer.


class Separate(nn.Module):
    """Per head its own multi-layer perceptron; all first layers are one product over the same parts."""

    def __init__(self, in_widths: Sequence[int], heads: Sequence[str], hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.first_width = hidden[0]
        self.out_width = hidden[-1]
        self.first = PartLinear(in_widths, len(heads) * hidden[0])
        self.rest = GroupedMlp(len(heads), hidden, dropout, last_linear=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[B or 1, width]` -> `[H, B, out_width]`, by head in order."""
        first_BHX = torch.relu(self.first(parts)).unflatten(-1, (len(self.heads), self.first_width))
        return self.rest(self.dropout(first_BHX).transpose(0, 1))

    def gate_means(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """No gates here."""
        return {}
