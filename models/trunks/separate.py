"""A separate network per head on shared embeddings, as in ESMM and ESM2."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.layers.linear import GroupedMlp, PartLinear
from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates, H heads, X width of a hidden layer.


class SeparateOptions(TrunkOptions):
    """The widths of each head's hidden layers."""

    takes_batch_norm: ClassVar[bool] = True
    type: Literal["separate"]
    hidden: Hidden = (128, 64)

    def build(self, spec: TrunkSpec) -> "Separate":
        return Separate(spec.in_widths, spec.heads, self.hidden, spec.dropout, spec.batch_norm)


class Separate(Trunk):
    """A multi-layer perceptron per head; the first layers of all heads are computed as one product."""

    def __init__(
        self,
        in_widths: Sequence[int],
        heads: Sequence[str],
        hidden: Sequence[int],
        dropout: float,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.first_width = hidden[0]
        self.out_width = hidden[-1]
        width = len(heads) * hidden[0]
        self.first = PartLinear(in_widths, width, normed=width if batch_norm else 0)
        self.rest = GroupedMlp(len(heads), hidden, dropout, last_linear=False, batch_norm=batch_norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, by head in order."""
        first_BHX = torch.relu(self.first(inputs.parts)).unflatten(-1, (len(self.heads), self.first_width))
        return self.rest(self.dropout(first_BHX).transpose(0, 1))
