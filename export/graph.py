"""The serving graph: takes raw keys and raw numbers, gives task scores, and contains every step between them."""

import logging
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import ir, optimizer
from torch import Tensor, nn

from export.external.lookup import NO_ROW, KeySlots, fill_hash_lookup, lookup_table, put_slots
from export.interrupts import interrupt_held
from export.log_space import out_of_log_space
from features import FeatureSchema, layouts
from features.schemas.schema import DERIVED
from features.within_request import INPUT as COMPARED
from models.data.deriving.derive import derive
from models.data.encoding.encoding import Encoding
from models.data.encoding.vocabulary import behaviour_column_vocabularies, key_column_vocabularies
from models.network.model import MultiTaskModel
from service.bundle.manifest import TensorSpec

# Two different primes, so that the exporter cannot mistake one axis for another or for 1.
_EXAMPLE_CANDIDATES = 7
_EXAMPLE_BEHAVIOURS = 11
_LOOKUP = "ai.onnx.ml::LabelEncoder"
_GROUPS = ("user", "context", "item", "candidate", DERIVED)


def graph_inputs(schema: FeatureSchema) -> tuple[TensorSpec, ...]:
    """The inputs of a schema's graph; a group without keys or numerics has no such input, and the position never is
    one.
    """
    inputs = layouts.graph_inputs(layouts.Layouts.of(schema))
    return tuple(
        TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": shape})
        for name, (dtype, shape) in inputs.items()
    )


class ServingGraph(nn.Module):
    """A trained model with the lookup of raw keys; user tensors have one row, candidate tensors C, and they
    broadcast.
    """

    known_keys: Tensor
    known_rows: Tensor

    def __init__(self, ranker: MultiTaskModel, encoding: Encoding) -> None:
        super().__init__()
        self.ranker = ranker
        schema = encoding.schema
        self.schema = schema
        vocabulary = encoding.vocabulary
        self.groups: list[str] = []
        self.hashed: list[str] = []  # the groups with a vocabulary that has buckets
        columns = {g: key_column_vocabularies(schema.group(g)) for g in _GROUPS} | {
            "behaviour": behaviour_column_vocabularies(schema)
        }
        for group, vocabularies in columns.items():
            if vocabularies:
                self.groups.append(group)
                first, count = vocabulary.shared_rows(vocabularies)
                self.register_buffer(f"unknown_{group}", torch.from_numpy(first))
                if any(name in vocabulary.buckets for name in vocabularies):
                    self.hashed.append(group)
                    self.register_buffer(f"buckets_{group}", torch.from_numpy(count), persistent=False)
        keys, rows_of_keys = lookup_table(vocabulary)
        order = np.argsort(keys)
        self.register_buffer("known_keys", torch.from_numpy(keys[order]), persistent=False)
        self.register_buffer("known_rows", torch.from_numpy(rows_of_keys[order]), persistent=False)

    def _lookup(self, keys: Tensor) -> Tensor:
        """Look up the rows of flat keys; -1 for unknown keys. This is one hash lookup in ONNX, whose table `to_onnx`
        inserts.
        """
        if torch.compiler.is_exporting():
            attrs: Any = {"default_int64": NO_ROW, "keys_int64s": [0], "values_int64s": [0]}  # a placeholder
            shape: Any = keys.shape
            return torch.onnx.ops.symbolic(_LOOKUP, (keys,), attrs, dtype=torch.int64, shape=shape, version=4)
        place = torch.searchsorted(self.known_keys, keys).clamp(max=len(self.known_keys) - 1)
        return torch.where(self.known_keys[place] == keys, self.known_rows[place], NO_ROW)

    def rows(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embedding rows by group, in the shape of its keys; a group that has only numbers is left out."""
        if not self.groups:
            return {}
        keys = [inputs[f"{group}_keys"] for group in self.groups]
        flat_rows = self._lookup(torch.cat([k.flatten() for k in keys]))
        rows = {}
        start = 0
        for group, group_keys in zip(self.groups, keys, strict=True):
            piece = flat_rows[start : start + group_keys.numel()].reshape(group_keys.shape)
            unknown = getattr(self, f"unknown_{group}")
            if group in self.hashed:
                unknown = unknown + torch.remainder(group_keys, getattr(self, f"buckets_{group}"))
            rows[group] = torch.where(piece < 0, unknown, piece)
            start = start + group_keys.numel()
        return rows

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The graph's inputs by name -> task scores `[C]` by name (probabilities, or values), and the vectors beside
        them.
        """
        if self.schema.derived:
            inputs = inputs | derive(self.schema, inputs)
        rows = self.rows(inputs)
        batch = {f"{group}_rows": r for group, r in rows.items()} | {
            n: t for n, t in inputs.items() if n.endswith("_numerics") or n == COMPARED
        }
        for group in _GROUPS:
            if group not in rows and f"{group}_numerics" in inputs:  # a group of numbers alone has rows without columns
                batch[f"{group}_rows"] = inputs[f"{group}_numerics"][:, :0].to(torch.int64)
        if "behaviour" in rows:  # one user: a leading axis of one, which broadcasts against the candidates
            batch["behaviour_rows"] = rows["behaviour"].unsqueeze(0)
            batch["behaviour_times"] = inputs["behaviour_times"].unsqueeze(0)
            batch["request_time"] = inputs["request_time"]
            if "behaviour_numerics" in inputs:
                batch["behaviour_numerics"] = inputs["behaviour_numerics"].unsqueeze(0)
        return self.ranker.served(batch)

    @property
    def output_names(self) -> list[str]:
        """The names of the graph's outputs in their order: the task scores, then the vectors."""
        return [*self.ranker.score_names, *self.ranker.vector_shapes]


def example_inputs(schema: FeatureSchema) -> dict[str, Tensor]:
    """Return inputs of the example size with all keys missing: the exporter uses only their shapes."""
    sizes = {"C": _EXAMPLE_CANDIDATES, "L": _EXAMPLE_BEHAVIOURS}
    dtypes = {"int64": torch.int64, "float32": torch.float32}
    shapes = {s.name: [n if isinstance(n, int) else sizes[n] for n in s.shape] for s in graph_inputs(schema)}
    return {s.name: torch.zeros(shapes[s.name], dtype=dtypes[s.dtype]) for s in graph_inputs(schema)}


def to_onnx(graph: ServingGraph, encoding: Encoding, slots: KeySlots | None = None) -> onnx.ModelProto:
    """The graph as one ONNX model with named inputs and outputs and the free axes `C` and `L`.

    With `slots`, keys are looked up in its tensors, which the caller adds to the initialisers; without, the graph has
    its own hash table.
    """
    specs = graph_inputs(encoding.schema)
    free = {s.name: {i: torch.export.Dim.DYNAMIC for i, n in enumerate(s.shape) if isinstance(n, str)} for s in specs}
    graph.eval()
    for name in ("torch.onnx", "onnxscript"):  # what they say is about the exporter's own workings
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad(), interrupt_held():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            kwargs={"inputs": example_inputs(encoding.schema)},
            dynamo=True,
            dynamic_shapes={"inputs": free},
            input_names=[s.name for s in specs],
            output_names=graph.output_names,
            verbose=False,
        )
    assert program is not None
    _fold_constants(program.model)
    model = program.model_proto
    out_of_log_space(model)
    if slots is None:
        fill_hash_lookup(model, encoding.vocabulary)
    _name_axes(model, specs, graph.ranker.vector_shapes)
    _forget_origin(model)
    onnx.checker.check_model(model, full_check=True)
    if slots is not None:  # the checker does not know tensors that are added later
        put_slots(model, slots)
    return model


def _fold_constants(model: ir.Model) -> None:
    """Compute constant weights now; the exporter would leave large ones to be computed at each load."""
    optimizer.fold_constants(model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    optimizer.remove_unused_nodes(model)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on the origin of a node, because they name files of this machine."""
    graph = model.graph
    parts = (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_axes(
    model: onnx.ModelProto, specs: tuple[TensorSpec, ...], vectors: Mapping[str, tuple[int | str, ...]]
) -> None:
    """Name the free axes C and L everywhere, and check that each input and output has exactly the axes it should
    have.
    """
    names: dict[str, str] = {}
    for spec, value in zip(specs, model.graph.input, strict=True):
        assert value.name == spec.name
        for expected, axis in zip(spec.shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(expected, str):
                assert axis.dim_param, f"{spec.name}: the exporter fixed the axis {expected} to {axis.dim_value}"
                names[axis.dim_param] = expected
            else:
                assert axis.dim_value == expected, f"{spec.name}: width {axis.dim_value}, expected {expected}"
    for value in [*model.graph.input, *model.graph.output]:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
    for value in model.graph.output:
        axes = tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        expected_axes = vectors.get(value.name, ("C",))
        assert axes == expected_axes, f"output {value.name} has the axes {axes}, expected {expected_axes}"
    del model.graph.value_info[:]
