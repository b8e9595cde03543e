"""PEPNet: gates of the scene on the embeddings, and gates of the user and the item on the layers of every task.

Chang et al., PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information, KDD
2023 (arXiv 2302.01115), section 2.3. A gate is a network of two layers, with x its input and gamma = 2:
  gate(x) = gamma sigmoid(ReLU(x W + b) W' + b')
  EPNet: O_ep = gate([context; sg(E)]) * E, with E the input and sg() a stop of the gradient
  PPNet: O_l = gate_l([prior; sg(O_ep)]) * H_l with H_l = ReLU(W_l O_{l-1} + b_l) for each task, O_0 = O_ep
One gate network per layer gives the gates of all tasks. A gate starts near 1, where sigmoid(0) has it.
The scene is the context. The prior, in the paper the ids of user, item and author with their statistics, is here all
feature groups before EPNet: which columns identify somebody is not known. The last layer, without a gate, is the head's
tower, so a recipe gives it no hidden layer.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.input_part import InputPart
from models.layers.linear import GroupedLinear, PartLinear
from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates (1 for parts of the user at serving), H heads, X width of a layer.

GAMMA = 2.0


class PepnetOptions(TrunkOptions):
    """`hidden`: the layers of each head; `scene_hidden` and `gate_hidden`: the layer inside a gate of EPNet, of PPNet.

    Give `tower_hidden: []`, so that the last layer has no gate.
    """

    type: Literal["pepnet"]
    hidden: Hidden = (128, 64)
    scene_hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    gate_hidden: Annotated[int, Field(ge=1, le=4096)] = 64

    def build(self, spec: TrunkSpec) -> "Pepnet":
        return Pepnet(spec, self.hidden, self.scene_hidden, self.gate_hidden)


class GateNetwork(nn.Module):
    """gamma sigmoid(ReLU(x W + b) W' + b') over parts of widths `in_widths`."""

    def __init__(self, in_widths: Sequence[int], hidden: int, out_width: int) -> None:
        super().__init__()
        self.first = PartLinear(in_widths, hidden)
        self.last = nn.Linear(hidden, out_width)
        nn.init.zeros_(self.last.bias)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[B or 1, width]` -> gates `[B, out_width]` between 0 and gamma."""
        return GAMMA * torch.sigmoid(self.last(torch.relu(self.first(parts))))


class Pepnet(Trunk):
    """EPNet, then a network per head whose layers have PPNet's gates."""

    def __init__(self, spec: TrunkSpec, hidden: Sequence[int], scene_hidden: int, gate_hidden: int) -> None:
        super().__init__()
        widths = spec.in_widths
        heads = len(spec.heads)
        self.heads = heads
        self.in_widths = widths
        self.out_width = hidden[-1]
        self.is_prior = [_has_fields(part) for part in spec.parts]
        # EPNet: without context the gate reads the input alone.
        scene = [spec.context_width] if spec.context_width else []
        self.scene_gate = GateNetwork([*scene, *widths], scene_hidden, sum(widths))
        # PPNet: a gate network and a layer of every head, by depth.
        prior = [part.width for part in spec.parts if _has_fields(part)]
        self.gates = nn.ModuleList([GateNetwork([*prior, *widths], gate_hidden, heads * width) for width in hidden])
        self.first = PartLinear(widths, heads * hidden[0])
        self.rest = nn.ModuleList([GroupedLinear(heads, a, b) for a, b in zip(hidden[:-1], hidden[1:], strict=True)])
        self.dropout = nn.Dropout(spec.dropout)

    def scene_gated(self, inputs: TrunkInput) -> list[Tensor]:
        """O_ep as parts `[B, width]`."""
        scene = [] if inputs.context is None else [inputs.context]
        gates = self.scene_gate([*scene, *(part.detach() for part in inputs.parts)]).split(self.in_widths, -1)
        return [gate * part for gate, part in zip(gates, inputs.parts, strict=True)]

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, out_width]`, by head in order."""
        # What the gates of PPNet read, which teaches EPNet nothing.
        parts = self.scene_gated(inputs)
        prior = [part for part, is_prior in zip(inputs.parts, self.is_prior, strict=True) if is_prior]
        read = [*prior, *(part.detach() for part in parts)]
        # The layers of every head, each multiplied by its gates.
        x_HBX = self._by_head(torch.relu(self.first(parts))) * self._by_head(self.gates[0](read))
        for layer, gate in zip(self.rest, self.gates[1:], strict=True):
            x_HBX = torch.relu(layer(self.dropout(x_HBX))) * self._by_head(gate(read))
        return self.dropout(x_HBX)

    def _by_head(self, x: Tensor) -> Tensor:
        """`[B, H X]` -> `[H, B, X]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)


def _has_fields(part: InputPart) -> bool:
    """Whether the part is a feature group, not an encoder's vector."""
    return bool(part.embedded or part.numerics or part.binned)
