"""The naive export: the same trained weights in a straightforward model.

Every tensor has one row per candidate, even those of the user and of the behaviours (sent once per candidate). Each
feature has a lookup of its own. A layer reads the concatenation of all its inputs. Experts, gates and towers are
modules in a list. DIN concatenates [e, v, e - v, e * v, p] per pair and uses torch's PReLU. Keys are embedding rows
already, so this graph does not need the hash lookup of the product's graph.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from export.graph import ServingGraph
from models.encoders.din import Din
from models.encoders.pooling import COUNT_SCALE, Pooling
from models.layers.activation import PRelu
from models.layers.linear import GroupedLinear, GroupedMlp, PartLinear
from models.network.embedding.groups import GroupEmbedding
from models.network.model import MultiTaskModel
from models.trunks.mmoe import Mmoe
from models.trunks.separate import Separate

Inputs = dict[str, np.ndarray]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return torch's layer with a weight `[in, out]` and a bias `[out]`."""
    layer = nn.Linear(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(bias.flatten())
    return layer


def columns_of(first: PartLinear, start: int, end: int) -> nn.Linear:
    return linear(torch.cat(list(first.weights))[:, start:end], first.bias[start:end])


def rest_of(grouped: GroupedMlp, group: int, last_linear: bool) -> list[nn.Module]:
    """One group's layers."""
    modules: list[nn.Module] = []
    for layer in grouped.layers:
        assert isinstance(layer, GroupedLinear)
        modules += [linear(layer.weight[group], layer.bias[group]), nn.ReLU()]
    return modules[:-1] if last_linear else modules


class NaiveGroup(nn.Module):
    """Embeds a feature group one feature after the other."""

    def __init__(self, group: GroupEmbedding, table: nn.Embedding) -> None:
        super().__init__()
        self.group = group
        self.table = table

    def forward(self, rows: Tensor, numerics: Tensor | None) -> Tensor:
        keys = self.group.keys
        pieces = [self.table(rows[..., column]) for column in keys.singles]
        for columns, pooling in keys.multis:
            values = rows[..., columns]
            total = self.table(values).sum(-2)
            pieces.append(total / (values != 0).sum(-1, keepdim=True).clamp(min=1) if pooling == "mean" else total)
        if self.group.numerics is not None and numerics is not None:
            pieces.append(self.group.numerics(numerics))
            if self.group.bins is not None:
                pieces.append(self.group.bins(numerics))
        return torch.cat(pieces, -1)


class NaiveDin(nn.Module):
    """DIN over `[C, L, ...]`."""

    def __init__(self, din: Din) -> None:
        super().__init__()
        unit = din.unit
        first = linear(torch.cat([unit.weight, unit.property_weight]), unit.bias)
        self.layers = nn.ModuleList([first, *unit.layers])
        self.activations = nn.ModuleList([_prelu(a) for a in (unit.first_activation, *unit.activations)])
        self.out = unit.out
        self.item_width = din.item_width

    def forward(self, behaviours: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        items = behaviours[..., : self.item_width]
        properties = behaviours[..., self.item_width :]
        queries = target.unsqueeze(1).expand(-1, behaviours.shape[1], -1)
        x = torch.cat([items, queries, items - queries, items * queries, properties], -1)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = layer(x)
            x = activation(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        weights = self.out(x).squeeze(-1) * mask
        pooled: Tensor = (weights.unsqueeze(1) @ behaviours).squeeze(1)
        return pooled


def _prelu(activation: nn.Module) -> nn.PReLU:
    assert isinstance(activation, PRelu)
    made = nn.PReLU(len(activation.alpha))
    with torch.no_grad():
        made.weight.copy_(activation.alpha)
    return made


class NaivePooling(nn.Module):
    def forward(self, behaviours: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        present = mask.unsqueeze(-1).to(behaviours.dtype)
        count = present.sum(1)
        return torch.cat([(behaviours * present).sum(1) / count.clamp(min=1), torch.log1p(count) / COUNT_SCALE], -1)


class NaiveMmoe(nn.Module):
    """One vector `[C, X]` per head."""

    def __init__(self, trunk: Mmoe) -> None:
        super().__init__()
        width = trunk.first_width
        experts = trunk.experts
        self.experts = nn.ModuleList(
            [
                nn.Sequential(
                    columns_of(trunk.first, e * width, (e + 1) * width), nn.ReLU(), *rest_of(trunk.rest, e, False)
                )
                for e in range(experts)
            ]
        )
        start = experts * width
        self.gates = nn.ModuleList(
            [columns_of(trunk.first, start + h * experts, start + (h + 1) * experts) for h in range(len(trunk.heads))]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        experts = torch.stack([expert(x) for expert in self.experts], 1)
        return [(torch.softmax(gate(x), -1).unsqueeze(1) @ experts).squeeze(1) for gate in self.gates]


class NaiveSeparate(nn.Module):
    """One vector `[C, X]` per head."""

    def __init__(self, trunk: Separate) -> None:
        super().__init__()
        width = trunk.first_width
        self.networks = nn.ModuleList(
            [
                nn.Sequential(
                    columns_of(trunk.first, h * width, (h + 1) * width), nn.ReLU(), *rest_of(trunk.rest, h, False)
                )
                for h in range(len(trunk.heads))
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [network(x) for network in self.networks]


class Naive(nn.Module):
    """A ranker of groups, DIN or pooling, MMoE or separate towers, on tiled inputs."""

    def __init__(self, ranker: MultiTaskModel) -> None:
        super().__init__()
        self.ranker = ranker
        inputs = ranker.inputs
        parts: Any = inputs.groups
        groups = {name: NaiveGroup(parts[name], inputs.table) for name in parts}
        self.groups = nn.ModuleDict(groups)
        self.of_item = NaiveGroup(inputs.behaviour_item, inputs.table) if inputs.behaviour_item is not None else None
        self.of_property = (
            NaiveGroup(inputs.behaviour_property, inputs.table) if inputs.behaviour_property is not None else None
        )
        self.encoders = nn.ModuleList([NaiveDin(e) if isinstance(e, Din) else NaivePooling() for e in ranker.encoders])
        assert all(isinstance(e, Din | Pooling) for e in ranker.encoders)
        trunk = ranker.trunk
        assert isinstance(trunk, Mmoe | Separate)
        self.trunk: NaiveMmoe | NaiveSeparate = NaiveMmoe(trunk) if isinstance(trunk, Mmoe) else NaiveSeparate(trunk)
        self.towers = nn.ModuleList([nn.Sequential(*rest_of(ranker.towers, h, True)) for h in range(len(ranker.heads))])

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = [group(inputs[f"{name}_rows"], inputs.get(f"{name}_numerics")) for name, group in self.groups.items()]
        if self.of_item is not None and self.of_property is not None:
            rows = inputs["behaviour_rows"]
            times = inputs["behaviour_times"]
            age = ((inputs["request_time"] - times).clamp(min=0) / 1000.0).to(torch.float32)
            age = torch.where(times > 0, age, torch.nan).unsqueeze(-1)
            behaviours = torch.cat(
                [self.of_item(rows[..., :-2], inputs.get("behaviour_numerics")), self.of_property(rows[..., -2:], age)],
                -1,
            )
            numerics = self.ranker.inputs.target_numerics
            of_target = inputs["item_numerics"][..., numerics] if len(numerics) else None
            target = self.of_item(inputs["item_rows"][..., self.ranker.inputs.target_keys], of_target)
            parts += [encoder(behaviours, (rows != 0).any(-1), target) for encoder in self.encoders]
        vectors = self.trunk(torch.cat(parts, -1))
        logits = {head: self.towers[i](vectors[i]).squeeze(-1) for i, head in enumerate(self.ranker.heads)}
        out: dict[str, Tensor] = {}
        for structure in self.ranker.structures:
            out |= {name: torch.exp(p.yes) for name, p in structure.scores(logits).items()}  # type: ignore[union-attr]
        return out


def tiled(graph: ServingGraph, inputs: Inputs) -> Inputs:
    """Convert the inputs of the product's graph to those of the naive graph: keys as rows, everything once per
    candidate.
    """
    rows = graph.rows({name: torch.from_numpy(values) for name, values in inputs.items()})
    candidates = len(inputs["item_keys"])
    out: Inputs = {}
    for name, values in inputs.items():
        group, _, part = name.partition("_")
        array = rows[group].numpy() if part == "keys" else values
        of_behaviour = group == "behaviour"
        key = f"{group}_rows" if part == "keys" else name
        if group == "item":
            out[key] = array
        elif of_behaviour:
            out[key] = np.ascontiguousarray(np.broadcast_to(array, (candidates, *array.shape)))
        else:
            out[key] = np.ascontiguousarray(np.broadcast_to(array.reshape(1, -1), (candidates, array.size)))
    return out


def to_onnx(naive: Naive, example: Inputs, outputs: Sequence[str]) -> onnx.ModelProto:
    """Export with torch's exporter, its optimiser and free axes."""
    free: dict[str, dict[int, torch.export.Dim]] = {}
    candidates = torch.export.Dim.DYNAMIC
    length = torch.export.Dim.DYNAMIC
    for name in example:
        free[name] = {0: candidates} | ({1: length} if name.startswith("behaviour_") else {})
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            naive.eval(),
            kwargs={"inputs": {name: torch.from_numpy(values) for name, values in example.items()}},
            dynamo=True,
            dynamic_shapes={"inputs": free},
            input_names=list(example),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    return program.model_proto
