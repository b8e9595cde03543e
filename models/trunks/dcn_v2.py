"""DCN-V2: cross layers that multiply the input with itself, below any trunk.

Wang et al., DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems, WWW
2021 (arXiv 2008.13535). With x_0 the input, a cross layer is
  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, or with a low rank r: x_{l+1} = x_0 * (U_l V_l^T x_l + b_l) + x_l
and so L layers give products of up to L + 1 fields. The mixture of low-rank experts is not built.
The paper's deep network is here the trunk `over`: stacked, it reads x_L; parallel, it reads x_0 and the towers read
x_L beside it. The input stays in its parts, so a part of the user is multiplied by W_0 once per request.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.gates import Gating
from models.layers.input_part import InputPart
from models.layers.linear import PartLinear
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec
from models.trunks.mmoe import MmoeOptions
from models.trunks.omoe import OmoeOptions
from models.trunks.ple import PleOptions
from models.trunks.separate import SeparateOptions
from models.trunks.shared_bottom import SharedBottomOptions
from models.trunks.youtube2019 import Youtube2019Options

# Shape legend: B impressions or candidates (1 for parts of the user at serving), H heads, D width of all parts.

Over = Annotated[
    SharedBottomOptions | SeparateOptions | OmoeOptions | MmoeOptions | PleOptions | Youtube2019Options,
    Field(discriminator="type"),
]


class DcnV2Options(TrunkOptions):
    """`rank`: that of every W, which is whole by default; `over`: the trunk above or beside the cross layers."""

    type: Literal["dcn_v2"]
    layers: Annotated[int, Field(ge=1, le=8)] = 2
    rank: Annotated[int, Field(ge=1, le=4096)] | None = None
    structure: Literal["stacked", "parallel"] = "stacked"
    over: Over = SharedBottomOptions(type="shared_bottom")

    def build(self, spec: TrunkSpec) -> "DcnV2":
        return DcnV2(spec, self.layers, self.rank, self.structure == "parallel", self.over)


class CrossLayer(nn.Module):
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


class DcnV2(Trunk):
    """The cross layers, and the trunk `over` them."""

    def __init__(self, spec: TrunkSpec, layers: int, rank: int | None, parallel: bool, over: TrunkOptions) -> None:
        super().__init__()
        self.cross = nn.ModuleList([CrossLayer(spec.in_widths, rank) for _ in range(layers)])
        self.parallel = parallel
        # A crossed part depends on all parts, so on the candidate too, and it has no fields any more.
        crossed = tuple(InputPart(part.width, True, part.dim) for part in spec.parts)
        parts = spec.parts if parallel else crossed
        inner = TrunkSpec(parts, spec.heads, spec.dropout, spec.context_width, spec.domains)
        self.over = over.build(inner)
        self.out_width = self.over.out_width + (sum(spec.in_widths) if parallel else 0)

    def crossed(self, inputs: TrunkInput) -> TrunkInput:
        """The trunk's input with x_L in place of x_0."""
        parts = list(inputs.parts)
        for layer in self.cross:
            parts = layer(inputs.parts, parts)
        return inputs._replace(parts=parts)

    def _of_over(self, inputs: TrunkInput) -> TrunkInput:
        return inputs if self.parallel else self.crossed(inputs)

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, or `[1, B, out_width]` if all heads of `over` read the same vector."""
        if not self.parallel:
            return self.over(self.crossed(inputs))
        crossed_BD = torch.cat(list(self.crossed(inputs).parts), -1)
        deep_HBX = self.over(inputs)
        return torch.cat([deep_HBX, crossed_BD.unsqueeze(0).expand(deep_HBX.shape[0], -1, -1)], -1)

    def gating(self, inputs: TrunkInput) -> Gating | None:
        """The gates and the experts of `over`, if it has some."""
        return self.over.gating(self._of_over(inputs))

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """Mean gate value per expert of `over` `[E]`, by head; empty without gates."""
        return self.over.gate_means(self._of_over(inputs))
