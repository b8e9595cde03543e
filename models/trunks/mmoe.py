"""Multi-gate mixture of experts (MMoE).

Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018. Equation 6:
f^k(x) = sum_i g^k(x)_i f_i(x); equation 7: g^k(x) = softmax(W_gk x), a linear gate: no hidden layer, no normalisation.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.layers.gates import Gating, drop_experts
from models.layers.linear import GroupedMlp, PartLinear
from models.options import Experts, Hidden, Rate
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates, E experts, H heads, X width of an expert's layer.


class MmoeOptions(TrunkOptions):
    """`expert_dropout`: share of gate values set to 0 in training, the rest renormalised."""

    takes_batch_norm: ClassVar[bool] = True
    type: Literal["mmoe"]
    experts: Experts = 4
    expert_hidden: Hidden = (128, 64)
    expert_dropout: Rate = 0.0

    def build(self, spec: TrunkSpec) -> "Mmoe":
        hidden = self.expert_hidden
        dropout = (spec.dropout, self.expert_dropout)
        return Mmoe(spec.in_widths, spec.heads, self.experts, hidden, *dropout, spec.batch_norm)


class Mmoe(Trunk):
    """`experts` ReLU networks of widths `hidden`, mixed per head.

    The first layers of the experts and all gates are computed as one product.
    """

    def __init__(
        self,
        in_widths: Sequence[int],
        heads: Sequence[str],
        experts: int,
        hidden: Sequence[int],
        dropout: float,
        expert_dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.experts = experts
        self.first_width = hidden[0]
        self.out_width = hidden[-1]
        self.expert_dropout = expert_dropout
        # The gates are not normalised.
        normed = experts * hidden[0] if batch_norm else 0
        self.first = PartLinear(in_widths, experts * hidden[0] + len(heads) * experts, normed=normed)
        self.rest = GroupedMlp(experts, hidden, dropout, last_linear=False, batch_norm=batch_norm)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # W_gk x has no bias in the paper: it starts at zero
            self.first.bias[experts * hidden[0] :].zero_()

    def _first(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The experts' first layers `[B, E, X]` and the gates `[B, H, E]`."""
        split = self.experts * self.first_width
        product = self.first(parts)
        gates_BHE = torch.softmax(product[:, split:].unflatten(-1, (len(self.heads), self.experts)), -1)
        return torch.relu(product[:, :split]).unflatten(-1, (self.experts, self.first_width)), gates_BHE

    def forward(self, inputs: TrunkInput) -> Tensor:
        """Equation 6 for every head: `[H, B, out_width]`, by head in order."""
        first_BEX, gates_BHE = self._first(inputs.parts)
        if self.training and self.expert_dropout:
            gates_BHE = drop_experts(gates_BHE, self.expert_dropout)
        experts_EBX = self.rest(self.dropout(first_BEX).transpose(0, 1))
        return (gates_BHE @ experts_EBX.transpose(0, 1)).transpose(0, 1)

    def gating(self, inputs: TrunkInput) -> Gating:
        """The gates by head and the outputs of the experts."""
        first_BEX, gates_BHE = self._first(inputs.parts)
        return Gating(
            {head: gates_BHE[:, i] for i, head in enumerate(self.heads)}, self.rest(first_BEX.transpose(0, 1))
        )

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`, by head."""
        means_HE = self._first(inputs.parts)[1].mean(0)
        return dict(zip(self.heads, means_HE, strict=True))
