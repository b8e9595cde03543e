"""GDCN: cross layers in which a gate decides how much of each product goes on, below or beside any trunk.

Wang et al., Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction, CIKM 2023 (arXiv 2311.04635).
With c_0 the input, a gated cross layer is
  c_{l+1} = c_0 * (W_l c_l + b_l) * sigmoid(G_l c_l) + c_l
so with all gates open it is a layer of DCN-V2. GDCN-S is stacked, GDCN-P parallel. The paper's search for the width of
each field's embedding (FDO) is not built.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from models.layers.linear import PartLinear
from models.trunks.base import TrunkSpec
from models.trunks.crossing import Crossing, CrossingOptions, CrossLayer

# Shape legend: B impressions or candidates (1 for parts of the user at serving), D width of all parts.


class GdcnOptions(CrossingOptions):
    """`layers` of gated products; `over`: the trunk above or beside them."""

    type: Literal["gdcn"]

    def build(self, spec: TrunkSpec) -> "Gdcn":
        return Gdcn(spec, [GatedProductLayer(spec.in_widths) for _ in range(self.layers)], self)


class GatedProductLayer(CrossLayer):
    """One gated cross layer over parts of widths `in_widths`."""

    def __init__(self, in_widths: Sequence[int]) -> None:
        super().__init__()
        self.in_widths = list(in_widths)
        self.product = PartLinear(in_widths, sum(in_widths))
        self.gate = PartLinear(in_widths, sum(in_widths), bias=False)

    def gates(self, parts: Sequence[Tensor]) -> Tensor:
        """c_l as parts -> sigmoid(G c_l) `[B, D]`."""
        return torch.sigmoid(self.gate(parts))

    def forward(self, first: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        """c_0 and c_l as parts `[B or 1, width]` each -> c_{l+1} as parts `[B, width]`."""
        factors = (self.product(parts) * self.gates(parts)).split(self.in_widths, -1)
        return [x0 * factor + x for x0, factor, x in zip(first, factors, parts, strict=True)]


class Gdcn(Crossing):
    """The layers of GDCN, and the trunk over them."""
