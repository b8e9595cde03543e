"""Owns the multi-gate mixture of experts.

Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018. Equation 6:
f^k(x) = sum_i g^k(x)_i f_i(x); equation 7: g^k(x) = softmax(W_gk x), a linear gate: no hidden layer, no normalisation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.gates import Gating, drop_experts
from models.layers.linear import GroupedMlp, PartLinear

# Shape legend: B impressions or candidates, E experts, H heads, X width of an expert's layer.


class Mmoe(nn.Module):
    """`experts` ReLU networks of widths `hidden`, mixed per head; the experts' first layers and all gates are one product."""

    def __init__(
        self,
        in_widths: Sequence[int],
        heads: Sequence[str],
        experts: int,
        hidden: Sequence[int],
        dropout: float,
        expert_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.experts = experts
        self.first_width = hidden[0]
        self.out_width = hidden[-1]
        self.expert_dropout = expert_dropout
        self.first = PartLinear(in_widths, experts * hidden[0] + len(heads) * experts)
        self.rest = GroupedMlp(experts, hidden, dropout, last_linear=False)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():  # W_gk x has no bias in the paper; a zero start leaves it to the data
            self.first.bias[experts * hidden[0] :].zero_()

    def _first(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        split = self.experts * self.first_width
        product = self.first(parts)
        gates_BHE = torch.softmax(product[:, split:].unflatten(-1, (len(self.heads), self.experts)), -1)
        return torch.relu(product[:, :split]).unflatten(-1, (self.experts, self.first_width)), gates_BHE

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[B or 1, width]` -> `[H, B, out_width]`, by head in order."""
        first_BEX, gates_BHE = self._first(parts)
        if self.training and self.expert_dropout:
            gates_BHE = drop_experts(gates_BHE, self.expert_dropout)
        experts_EBX = self.rest(self.dropout(first_BEX).transpose(0, 1))
        return (gates_BHE @ experts_EBX.transpose(0, 1)).transpose(0, 1)

    def gating(self, parts: Sequence[Tensor]) -> Gating:
        """The gates by head and the experts' outputs."""
        first_BEX, gates_BHE = self._first(parts)
        return Gating(
            {head: gates_BHE[:, i] for i, head in enumerate(self.heads)}, self.rest(first_BEX.transpose(0, 1))
        )

    def gate_means(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`, by head."""
        means_HE = self._first(parts)[1].mean(0)
        return dict(zip(self.heads, means_HE, strict=True))
