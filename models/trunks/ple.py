"""Progressive layered extraction (PLE), and CGC as its form with one level.

Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
Recommendations, RecSys 2020. CGC, equations 1 to 4: g^k(x) = w^k(x) S^k(x), w^k(x) = softmax(W_g^k x), where S^k stacks
the own experts of task k and the shared experts. PLE, equations 5 to 7: the selector of level j is the task's fusion of
level j-1; the shared module's gate selects over all experts of its level and feeds the shared experts of the next
level; the last level has no shared gate.

The paper's gates W_g x have no bias. These have one, which starts at zero: it lets a gate prefer an expert for all
impressions alike.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.gates import Gating
from models.layers.linear import GroupedLinear, GroupedMlp, PartLinear
from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates, H heads, O own experts per head, S shared experts,
# E = H * O + S all experts of a level, M = O + S experts that a head sees, X width of an expert.
# Experts are ordered head by head, the shared experts last.


class PleOptions(TrunkOptions):
    """`levels` = 1 is CGC; `own_experts` per head."""

    takes_batch_norm: ClassVar[bool] = True
    type: Literal["ple"]
    levels: Annotated[int, Field(ge=1, le=8)] = 2
    own_experts: Annotated[int, Field(ge=1, le=32)] = 2
    shared_experts: Annotated[int, Field(ge=1, le=32)] = 2
    expert_hidden: Hidden = (64,)

    def build(self, spec: TrunkSpec) -> "Ple":
        experts = (self.own_experts, self.shared_experts)
        hidden = self.expert_hidden
        return Ple(spec.in_widths, spec.heads, self.levels, *experts, hidden, spec.dropout, spec.batch_norm)


class Mixing(nn.Module):
    """Mixes the experts of one level: each head over its own and the shared experts, the shared fusion over all."""

    index: Tensor

    def __init__(self, heads: int, own: int, shared: int) -> None:
        super().__init__()
        self.heads = heads
        self.seen = own + shared
        self.all = heads * own + shared
        common = list(range(heads * own, self.all))
        index = [[*range(k * own, (k + 1) * own), *common] for k in range(heads)]
        self.register_buffer("index", torch.tensor(index), persistent=False)

    def heads_fusion(self, gates_HBM: Tensor, experts_EBX: Tensor) -> Tensor:
        """Softmaxed gates and all experts -> `[H, B, X]`."""
        seen_HBMX = experts_EBX[self.index].transpose(1, 2)
        return (gates_HBM.unsqueeze(-2) @ seen_HBMX)[..., 0, :]

    def shared_fusion(self, gate_BE: Tensor, experts_EBX: Tensor) -> Tensor:
        """Softmaxed gate and all experts -> `[B, X]`."""
        return (gate_BE.unsqueeze(1) @ experts_EBX.transpose(0, 1))[:, 0]


class FirstLevel(nn.Module):
    """Level 1: every expert and every gate reads the input, so their first layers are one product."""

    def __init__(
        self,
        in_widths: Sequence[int],
        mixing: Mixing,
        hidden: Sequence[int],
        dropout: float,
        last: bool,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.mixing = mixing
        self.width = hidden[0]
        self.shared_gate = 0 if last else mixing.all
        normed = mixing.all * hidden[0] if batch_norm else 0
        width = mixing.all * hidden[0] + mixing.heads * mixing.seen + self.shared_gate
        self.first = PartLinear(in_widths, width, normed=normed)
        self.rest = GroupedMlp(mixing.all, hidden, dropout, last_linear=False, batch_norm=batch_norm)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.first.bias[mixing.all * hidden[0] :].zero_()

    def split(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Parts -> the experts' first layers `[B, E * X1]`, the heads' gates `[H, B, M]` and the shared gate `[B, E]`.

        The last level has no shared gate: `[B, 0]`.
        """
        mixing = self.mixing
        sizes = [mixing.all * self.width, mixing.heads * mixing.seen, self.shared_gate]
        experts, gates, shared = self.first(parts).split(sizes, -1)
        gates_HBM = torch.softmax(gates.unflatten(-1, (mixing.heads, mixing.seen)), -1).transpose(0, 1)
        return experts, gates_HBM, torch.softmax(shared, -1)

    def experts_of(self, first: Tensor) -> Tensor:
        """The experts' first layers from `split` -> all experts `[E, B, X]`."""
        first_EBX = torch.relu(first).unflatten(-1, (self.mixing.all, self.width)).transpose(0, 1)
        return self.rest(self.dropout(first_EBX))

    def forward(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Parts -> the fusions of the heads `[H, B, X]` and the shared fusion `[B, X]`, None in the last level."""
        first, gates_HBM, shared_BE = self.split(parts)
        experts_EBX = self.experts_of(first)
        shared = self.mixing.shared_fusion(shared_BE, experts_EBX) if self.shared_gate else None
        return self.mixing.heads_fusion(gates_HBM, experts_EBX), shared


class NextLevel(nn.Module):
    """Level j > 1: the experts and the gate of a head read that head's fusion, shared experts the shared fusion."""

    source: Tensor

    def __init__(
        self,
        in_width: int,
        mixing: Mixing,
        experts: tuple[int, int],
        hidden: Sequence[int],
        dropout: float,
        last: bool,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.mixing = mixing
        own, shared = experts
        source = [k for k in range(mixing.heads) for _ in range(own)] + [mixing.heads] * shared
        self.register_buffer("source", torch.tensor(source), persistent=False)
        self.experts = GroupedMlp(mixing.all, (in_width, *hidden), dropout, last_linear=False, batch_norm=batch_norm)
        self.gates = GroupedLinear(mixing.heads, in_width, mixing.seen)
        self.shared_gate = None if last else nn.Linear(in_width, mixing.all)
        with torch.no_grad():
            self.gates.bias.zero_()
            if self.shared_gate is not None:
                self.shared_gate.bias.zero_()

    def head_gates(self, heads_HBX: Tensor) -> Tensor:
        """The fusions of the level before -> the gates `[H, B, M]`."""
        return torch.softmax(self.gates(heads_HBX), -1)

    def experts_of(self, heads_HBX: Tensor, shared_BX: Tensor) -> Tensor:
        """The fusions of the level before -> all experts `[E, B, X]`."""
        inputs = torch.cat([heads_HBX, shared_BX.unsqueeze(0)])
        return self.experts(inputs[self.source])

    def forward(self, heads_HBX: Tensor, shared_BX: Tensor) -> tuple[Tensor, Tensor | None]:
        """The fusions of the level before -> the fusions of this level, as in FirstLevel."""
        experts_EBX = self.experts_of(heads_HBX, shared_BX)
        shared = None
        if self.shared_gate is not None:
            shared = self.mixing.shared_fusion(torch.softmax(self.shared_gate(shared_BX), -1), experts_EBX)
        return self.mixing.heads_fusion(self.head_gates(heads_HBX), experts_EBX), shared


class Ple(Trunk):
    """`levels` extraction levels with `own` experts per head and `shared` common ones; one level is CGC."""

    def __init__(
        self,
        in_widths: Sequence[int],
        heads: Sequence[str],
        levels: int,
        own: int,
        shared: int,
        hidden: Sequence[int],
        dropout: float,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.out_width = hidden[-1]
        mixing = Mixing(len(heads), own, shared)
        self.first = FirstLevel(in_widths, mixing, hidden, dropout, levels == 1, batch_norm)
        self.levels = nn.ModuleList(
            [
                NextLevel(hidden[-1], mixing, (own, shared), hidden, dropout, j == levels, batch_norm)
                for j in range(2, levels + 1)
            ]
        )

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, by head in order."""
        heads_HBX, shared_BX = self.first(inputs.parts)
        for level in self.levels:
            heads_HBX, shared_BX = level(heads_HBX, shared_BX)
        return heads_HBX

    def gating(self, inputs: TrunkInput) -> Gating:
        """The last level's gates by head, over the experts that the head sees (its own first), and the outputs of all
        experts.
        """
        first, gates_HBM, _ = self.first.split(inputs.parts)
        experts_EBX = self.first.experts_of(first)
        heads_HBX, shared_BX = self.first(inputs.parts)
        for level in self.levels:
            assert isinstance(level, NextLevel)
            gates_HBM = level.head_gates(heads_HBX)
            experts_EBX = level.experts_of(heads_HBX, shared_BX)
            heads_HBX, shared_BX = level(heads_HBX, shared_BX)
        return Gating(dict(zip(self.heads, gates_HBM, strict=True)), experts_EBX)

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """By head: the mean gate value `[M]` of the last level for each expert that the head sees, its own experts
        first.
        """
        return {head: gates_BM.mean(0) for head, gates_BM in self.gating(inputs).gates.items()}
