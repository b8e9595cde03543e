"""YouTube's trunk: one shared hidden layer, and a mixture of experts on top of it.

Zhao et al., Recommending What Video to Watch Next: A Multitask Ranking System, RecSys 2019, section 4.2: a bottom layer
that all tasks share keeps the experts small; experts and linear gates read that layer, not the input.
With s(x) = relu(W x + b): f^k(x) = sum_i g^k(s(x))_i f_i(s(x)) (equation 2), g^k(x) = softmax(W_gk s(x)) (equation 3).
Options 5.2.4: in training each expert is left out of a gate with probability 10 % and the gate is renormalised, so that
gates do not polarise on one expert.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.gates import Gating
from models.layers.linear import PartLinear
from models.options import Experts, Hidden, Rate
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec
from models.trunks.mmoe import Mmoe

# Shape legend: B impressions or candidates, H heads, E experts.


class Youtube2019Options(TrunkOptions):
    """One shared layer of `shared_width` below a mixture of experts; `expert_dropout` as in MMoE."""

    type: Literal["youtube2019"]
    shared_width: Annotated[int, Field(ge=1, le=4096)] = 128
    experts: Experts = 4
    expert_hidden: Hidden = (64,)
    expert_dropout: Rate = 0.1

    def build(self, spec: TrunkSpec) -> "Youtube2019":
        widths = spec.in_widths
        hidden = self.expert_hidden
        dropouts = (spec.dropout, self.expert_dropout)
        return Youtube2019(widths, spec.heads, self.shared_width, self.experts, hidden, *dropouts)


class Youtube2019(Trunk):
    """`shared_width`: width of the layer below the experts; the rest is a mixture of experts."""

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

    def _shared(self, inputs: TrunkInput) -> TrunkInput:
        """The shared layer's output as the input of the mixture."""
        return inputs._replace(parts=[self.dropout(torch.relu(self.shared(inputs.parts)))])

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, by head in order."""
        return self.mixture(self._shared(inputs))

    def gating(self, inputs: TrunkInput) -> Gating:
        """The gates by head and the outputs of the experts."""
        return self.mixture.gating(self._shared(inputs))

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`, by head."""
        return self.mixture.gate_means(self._shared(inputs))
