"""What cross networks share: layers that multiply the input with itself, below or beside another trunk.

A cross layer maps x_0, the input, and x_l to x_{l+1}. The deep network of the papers is here the trunk `over`: stacked,
it reads x_L; parallel, it reads x_0 and the towers read x_L beside it. The input stays in its parts, so a part of the
user is multiplied by the weights of the first layer once per request.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.gates import Gating
from models.layers.input_part import InputPart
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


class CrossingOptions(TrunkOptions, ABC):
    """`over`: the trunk above or beside the cross layers."""

    layers: Annotated[int, Field(ge=1, le=8)] = 2
    structure: Literal["stacked", "parallel"] = "stacked"
    over: Over = SharedBottomOptions(type="shared_bottom")


class CrossLayer(nn.Module, ABC):
    """One cross layer over parts."""

    @abstractmethod
    def forward(self, first: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        """x_0 and x_l as parts `[B or 1, width]` each -> x_{l+1} as parts `[B, width]`."""


class Crossing(Trunk):
    """The cross layers, and the trunk `over` them."""

    def __init__(self, spec: TrunkSpec, layers: Sequence[CrossLayer], options: CrossingOptions) -> None:
        super().__init__()
        self.cross = nn.ModuleList(layers)
        self.parallel = options.structure == "parallel"
        # A crossed part depends on all parts, so on the candidate too, and it has no fields any more.
        crossed = tuple(InputPart(part.width, True, part.dim) for part in spec.parts)
        parts = spec.parts if self.parallel else crossed
        inner = TrunkSpec(parts, spec.heads, spec.dropout, spec.context_width, spec.domains)
        self.over = options.over.build(inner)
        self.out_width = self.over.out_width + (sum(spec.in_widths) if self.parallel else 0)

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
