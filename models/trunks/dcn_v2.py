"""DCN-V2: cross layers that multiply the input with itself, below any trunk.

Wang et al., DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems, WWW
2021 (arXiv 2008.13535). With x_0 the input, a cross layer is
  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, or with a low rank r: x_{l+1} = x_0 * (U_l V_l^T x_l + b_l) + x_l
and so L layers give products of up to L + 1 fields. The mixture of low-rank experts is not built.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from models.layers.linear import PartLinear
from models.trunks.base import TrunkSpec
from models.trunks.crossing import Crossing, CrossingOptions, CrossLayer

# Shape legend: B impressions or candidates (1 for parts of the user at serving), D width of all parts.


class DcnV2Options(CrossingOptions):
    """`rank`: that of every W, which is whole by default; `over`: the trunk above or beside the cross layers."""

    type: Literal["dcn_v2"]
    rank: Annotated[int, Field(ge=1, le=4096)] | None = None

    def build(self, spec: TrunkSpec) -> "DcnV2":
        return DcnV2(spec, [ProductLayer(spec.in_widths, self.rank) for _ in range(self.layers)], self)


class ProductLayer(CrossLayer):
    """One cross layer over parts of widths `in_widths`; `rank` None: W is whole."""

    def __init__(self, in_widths: Sequence[int], rank: int | None) -> None:
        super().__init__()
        width = sum(in_widths)
        self.in_widths = list(in_widths)
        self.whole = None if rank else PartLinear(in_widths, width)
        self.down = PartLinear(in_widths, rank, bias=False) if rank else None
        self.up = nn.Linear(rank, width) if rank else None

    def forward(self, first: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        """x_0 and x_l as parts `[B or 1, width]` each -> x_{l+1} as parts `[B, width]`."""
        if self.whole is not None:
            factor_BD = self.whole(parts)
        else:
            assert self.down is not None
            assert self.up is not None
            factor_BD = self.up(self.down(parts))
        factors = factor_BD.split(self.in_widths, -1)
        return [x0 * factor + x for x0, factor, x in zip(first, factors, parts, strict=True)]


class DcnV2(Crossing):
    """The layers of DCN-V2, and the trunk over them."""
