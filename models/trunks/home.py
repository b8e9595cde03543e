"""HoME: experts in a hierarchy of all heads, a group of heads, and one head, with gates on what they read.

Wang et al., HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou, KDD 2025 (arXiv 2408.05430).
Heads that resemble each other are a group (the paper: interaction, and watching time). With v what a module reads:
  E(v) = Swish(BN(MLP(v * Fea(v)))), an expert of the module
  Fea(v) = sum_l softmax(v G)_l 2 sigmoid(v B_l A_l), with B_l A_l of low rank, starts near 1
  Self(v) = sum_j w_j E_j(v) over the module's experts, with w = softmax(v S), or sigmoid(v S) for a single expert
The first level has a module for each group and a shared one, which read the input. A group mixes its own experts and
the shared ones by a softmax of the input and adds its Self: z_c. The shared module mixes all experts of the level and
adds its Self: z_s. The second level has a module for each head and each group, which read z_c, and a shared one, which
reads z_s. A head mixes its own experts, its group's and the shared ones by a softmax of [z_c; z_s] and adds its Self.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.errors import RecipeError
from models.layers.gates import Gating
from models.layers.linear import GroupedMlp, PartLinear
from models.layers.normalisation import NormalisedLinear
from models.options import Hidden, Name
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates, C groups of heads, H heads, K modules of a level (the shared one last),
# N experts of a module, E = K * N experts, module by module, M experts that are mixed, L low-rank gates of a module,
# R their rank, I input, X width of an expert.


class HomeOptions(TrunkOptions):
    """`groups`: the heads of each group, all in one group by default. `experts` of a module.

    `meta_hidden` and `expert_hidden`: the layers of an expert of the first and the second level. `feature_gates`: how
    many low-rank gates of rank `rank` make the gate on what a module reads.
    """

    type: Literal["home"]
    groups: tuple[tuple[Name, ...], ...] = ()
    experts: Annotated[int, Field(ge=1, le=16)] = 2
    meta_hidden: Hidden = (64,)
    expert_hidden: Hidden = (64,)
    feature_gates: Annotated[int, Field(ge=1, le=8)] = 2
    rank: Annotated[int, Field(ge=1, le=256)] = 8

    def build(self, spec: TrunkSpec) -> "Home":
        return Home(spec, self, group_of_heads(self.groups or (spec.heads,), spec.heads))


def group_of_heads(groups: Sequence[Sequence[str]], heads: Sequence[str]) -> list[int]:
    """Return the group of each head, in order. Raises RecipeError unless every head is in one group."""
    named = [head for group in groups for head in group]
    if sorted(named) != sorted(heads):
        problem = f"the groups name {', '.join(named)}; each of the heads is in one group: {', '.join(heads)}"
        raise RecipeError(f"model.trunk.groups: {problem}", ("model", "trunk", "groups"))
    return [next(i for i, group in enumerate(groups) if head in group) for head in heads]


class Level(nn.Module):
    """The modules of a level: their feature gates and their experts."""

    def __init__(
        self, modules: int, in_width: int, hidden: Sequence[int], dropout: float, options: HomeOptions
    ) -> None:
        super().__init__()
        self.experts = options.experts
        self.sizes = [options.feature_gates * options.rank, options.feature_gates]
        start = torch.empty(modules, options.feature_gates, options.rank, in_width).uniform_(-0.1, 0.1)
        self.up = nn.Parameter(start / math.sqrt(options.rank))
        widths = (in_width, *hidden)
        self.first = GroupedMlp(modules * options.experts, widths[:-1], dropout, last_linear=False)
        self.last = NormalisedLinear(modules * options.experts, *widths[-2:])
        self.dropout = nn.Dropout(dropout)

    def feature_gates(self, mapped_KBW: Tensor) -> Tensor:
        """[v B; v G] of each module, W = L R + L numbers -> Fea(v) `[K, B, I]`, between 0 and 2."""
        down_KBW, weights_KBL = mapped_KBW.split(self.sizes, -1)
        down_KLBR = down_KBW.unflatten(-1, (self.sizes[1], -1)).transpose(1, 2)
        weights_KLB1 = torch.softmax(weights_KBL, -1).transpose(1, 2).unsqueeze(-1)
        return (weights_KLB1 * (2 * torch.sigmoid(down_KLBR @ self.up))).sum(1)

    def forward(self, x_KBI: Tensor, mapped_KBW: Tensor) -> Tensor:
        """What each module reads, `[1, B, I]` if all read the same -> the experts `[E, B, X]`."""
        gated_KBI = x_KBI * self.feature_gates(mapped_KBW)
        gated_EBI = gated_KBI.unsqueeze(1).expand(-1, self.experts, -1, -1).flatten(0, 1)
        return self.dropout(nn.functional.silu(self.last(self.first(gated_EBI))))


class Home(Trunk):
    """Two levels of modules of experts: of a group of heads and shared, then of a head, of a group and shared."""

    seen_by_group: Tensor
    seen_by_head: Tensor
    group: Tensor
    source: Tensor

    def __init__(self, spec: TrunkSpec, options: HomeOptions, group: Sequence[int]) -> None:
        super().__init__()
        self.heads = spec.heads
        self.out_width = options.expert_hidden[-1]
        experts = options.experts
        groups = max(group) + 1
        heads = len(spec.heads)
        # The first level. What is linear in the input is one product, without biases as in the paper.
        self.meta = Level(groups + 1, sum(spec.in_widths), options.meta_hidden, spec.dropout, options)
        mapped = sum(self.meta.sizes)
        self.sizes = [(groups + 1) * mapped, (groups + 1) * experts, groups * 2 * experts, (groups + 1) * experts]
        self.of_input = PartLinear(spec.in_widths, sum(self.sizes), bias=False)
        self._keep("seen_by_group", [_experts_of([c, groups], experts) for c in range(groups)])
        # The second level.
        width = options.meta_hidden[-1]
        self.tasks = Level(heads + groups + 1, width, options.expert_hidden, spec.dropout, options)
        self.of_source = _weights(heads + groups + 1, width, mapped)
        self.self_gates = _weights(heads, width, experts)
        self.gates = _weights(heads, 2 * width, 3 * experts)
        self._keep("group", group)
        self._keep("source", [*group, *range(groups), groups])
        seen = [_experts_of([head, heads + c, heads + groups], experts) for head, c in enumerate(group)]
        self._keep("seen_by_head", seen)

    def _keep(self, name: str, numbers: Sequence[object]) -> None:
        self.register_buffer(name, torch.tensor(numbers), persistent=False)

    def first_level(self, inputs: TrunkInput) -> Tensor:
        """z of each group, then the shared z, `[C + 1, B, X]`."""
        # What the modules, their own mixtures, and the mixtures of groups and of the shared module read of the input.
        modules = self.seen_by_group.shape[0] + 1
        mapped, own, of_groups, of_shared = self.of_input(inputs.parts).split(self.sizes, -1)
        v_BI = torch.cat([part.expand(mapped.shape[0], -1) for part in inputs.parts], -1)
        experts_EBX = self.meta(v_BI.unsqueeze(0), _by_module(mapped, modules))
        # The mixtures.
        groups_CBX = _mixed(torch.softmax(_by_module(of_groups, modules - 1), -1), experts_EBX[self.seen_by_group])
        shared_1BX = _mixed(torch.softmax(of_shared, -1).unsqueeze(0), experts_EBX.unsqueeze(0))
        own_KBX = _own_mixture(_by_module(own, modules), experts_EBX)
        return torch.cat([groups_CBX, shared_1BX]) + own_KBX

    def second_level(self, z_KBX: Tensor) -> tuple[Tensor, Tensor]:
        """z -> the softmaxed gates of the heads `[H, B, M]`, over the experts that each sees, and the experts."""
        read_KBX = z_KBX[self.source]
        both_HBX = torch.cat([z_KBX[self.group], z_KBX[-1:].expand(len(self.heads), -1, -1)], -1)
        return torch.softmax(both_HBX @ self.gates, -1), self.tasks(read_KBX, read_KBX @ self.of_source)

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, by head in order."""
        z_KBX = self.first_level(inputs)
        gates_HBM, experts_EBX = self.second_level(z_KBX)
        own = len(self.heads) * self.tasks.experts
        own_HBX = _own_mixture(z_KBX[self.group] @ self.self_gates, experts_EBX[:own])
        return _mixed(gates_HBM, experts_EBX[self.seen_by_head]) + own_HBX

    def gating(self, inputs: TrunkInput) -> Gating:
        """The second level's gates by head, over its own, its group's and the shared experts; all experts' outputs."""
        gates_HBM, experts_EBX = self.second_level(self.first_level(inputs))
        return Gating(dict(zip(self.heads, gates_HBM, strict=True)), experts_EBX)

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """By head: the mean gate value `[M]` of the second level for its own, its group's and the shared experts."""
        return {head: gates_BM.mean(0) for head, gates_BM in self.gating(inputs).gates.items()}


def _experts_of(modules: Sequence[int], experts: int) -> list[int]:
    """The numbers of the experts of some modules, in the order of a level."""
    return [module * experts + i for module in modules for i in range(experts)]


def _weights(groups: int, in_width: int, out_width: int) -> nn.Parameter:
    bound = 1 / math.sqrt(in_width)
    return nn.Parameter(torch.empty(groups, in_width, out_width).uniform_(-bound, bound))


def _by_module(mapped: Tensor, modules: int) -> Tensor:
    """`[B, K W]` -> `[K, B, W]`."""
    return mapped.unflatten(-1, (modules, -1)).transpose(0, 1)


def _mixed(gates_KBM: Tensor, seen_KMBX: Tensor) -> Tensor:
    """The weighted sum of the experts that each module or head sees, `[K, B, X]`."""
    return (gates_KBM.unsqueeze(-2) @ seen_KMBX.transpose(1, 2))[..., 0, :]


def _own_mixture(raw_KBN: Tensor, experts_EBX: Tensor) -> Tensor:
    """Self(v): the sum of each module's own experts, weighted by a softmax, or a single one by a sigmoid."""
    experts = raw_KBN.shape[-1]
    gates_KBN = torch.sigmoid(raw_KBN) if experts == 1 else torch.softmax(raw_KBN, -1)
    return _mixed(gates_KBN, experts_EBX.unflatten(0, (-1, experts)))
