"""Measures what a ranking would save if the item's part of the first layer were known: `python -m tools.item_part`.

Decision 7 says what the figures are for. Give the folders of bundles whose graphs lie in one file, of models that read
an item in their first layer alone: `python -m tools.item_part sample/registry/kuairand-mmoe/3`.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.golden import read_golden
from service.bundle.loading import open_session
from service.bundle.manifest import GOLDEN_FILE, GRAPH_FILE
from service.bundle.verify import read_manifest

CANDIDATES = 200
_ITEMS = 20_000  # in the cache: more bytes than a processor's caches have
_REQUESTS = 20
_ROUNDS = 25
_SEED = 1
_PART = "item_part"
_KNOWN = "known_item_part"
_ROWS = "item_rows"
_ITEM_INPUTS = ("item_keys", "item_numerics")
_NO_ROW_OF_ITEM = "unknown_item"
Inputs = dict[str, np.ndarray]


def with_known_parts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the outputs `item_rows` and `item_part`, and an optional input of known parts.

    Known parts follow the computed ones. Without them the graph has the bits that it had.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    lookup, product = _of_items(graph)
    (width,) = [tensor.dims[1] for tensor in graph.initializer if tensor.name == product.input[1]]
    for node, old, new in ((lookup, lookup.output[0], _ROWS), (product, product.output[0], "item_parts")):
        for reader in graph.node:
            reader.input[:] = [new if name == old else name for name in reader.input]
        node.output[0] = _PART if node is product else _ROWS
    nodes = list(graph.node)
    joined = helper.make_node("Concat", [_PART, _KNOWN], ["item_parts"], axis=0)
    nodes.insert(nodes.index(product) + 1, joined)
    del graph.node[:]
    graph.node.extend(nodes)
    # An input with an initialiser may be left out (ONNX IR 4).
    graph.initializer.append(numpy_helper.from_array(np.zeros((0, width), np.float32), _KNOWN))
    graph.input.append(helper.make_tensor_value_info(_KNOWN, TensorProto.FLOAT, ["K", width]))
    graph.output.append(helper.make_tensor_value_info(_PART, TensorProto.FLOAT, ["C", width]))
    graph.output.append(helper.make_tensor_value_info(_ROWS, TensorProto.INT64, ["C", "rows"]))
    return changed


def _of_items(graph: onnx.GraphProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The node that gives the items' rows of the table, and the only product that leaves what the item decides."""
    constants = {tensor.name for tensor in graph.initializer} | {""}
    of_item = {"item_numerics"}
    lookups = []
    border: dict[str, onnx.NodeProto] = {}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        inputs = [name for name in node.input if name not in constants]
        if node.op_type == "Where" and _NO_ROW_OF_ITEM in node.input:
            lookups.append(node)
            of_item.update(node.output)
        elif inputs and of_item.issuperset(inputs):
            of_item.update(node.output)
        else:
            border.update({name: made_by[name] for name in inputs if name in of_item and name in made_by})
    if len(lookups) != 1 or len(border) != 1 or next(iter(border.values())).op_type != "MatMul":
        raise SystemExit(f"the model reads the item in other places than its first layer: {', '.join(sorted(border))}")
    return lookups[0], next(iter(border.values()))


def _subgraph(model: onnx.ModelProto, output: str) -> Any:
    """A session that computes one output of the graph and nothing else."""
    (described,) = [value for value in model.graph.output if value.name == output]
    needed = {output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    inputs = [value for value in model.graph.input if value.name in needed and value.name != _KNOWN]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del graph.node[:], graph.output[:], graph.input[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.output.append(described)
    graph.input.extend(inputs)
    graph.initializer.extend(tensors)
    return open_session(part.SerializeToString(), 1)


class KnownParts:
    """The parts of many items, found by the bytes of their rows, as a service would keep them."""

    def __init__(self, rows: list[bytes], parts: np.ndarray) -> None:
        self.places = {row: place for place, row in enumerate(rows)}
        self.parts = parts

    def of(self, inputs: Inputs) -> np.ndarray:
        """The parts of a request's items, float32 `[C, X]`."""
        return self.parts.take(list(map(self.places.__getitem__, row_bytes(inputs))), 0)


def row_bytes(inputs: Inputs) -> list[bytes]:
    """The bytes of each item's keys and numbers."""
    columns = [np.ascontiguousarray(inputs[name]).view(np.uint8) for name in _ITEM_INPUTS]
    joined = np.concatenate(columns, 1)
    rows: list[bytes] = joined.view(f"V{joined.shape[1]}").ravel().tolist()
    return rows


def measured(folder: Path) -> dict[str, float]:
    """Thread CPU us of each way to score, in turns in one process, and the share of parts with other bits."""
    manifest = read_manifest(folder)
    model = onnx.load(folder / GRAPH_FILE)
    changed = with_known_parts(model)
    tasks = list(manifest.task_names)
    plain = open_session((folder / GRAPH_FILE).read_bytes(), 1)
    both = open_session(changed.SerializeToString(), 1)
    # Items by the rows of the golden request, with numbers of their own.
    longest = manifest.feature_schema.behaviour.max_length if manifest.feature_schema.behaviour else 1
    golden = dict(read_golden((folder / GOLDEN_FILE).read_bytes(), manifest, longest).inputs)
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(len(golden["item_keys"]), size=_ITEMS)
    noise = 0.3 * rng.normal(size=(_ITEMS, golden["item_numerics"].shape[1]))
    items = {"item_keys": golden["item_keys"][drawn]}
    items["item_numerics"] = (golden["item_numerics"][drawn] + noise).astype(np.float32)

    def chosen(places: np.ndarray) -> Inputs:
        return golden | {name: np.ascontiguousarray(values[places]) for name, values in items.items()}

    pieces = np.array_split(np.arange(_ITEMS), _ITEMS // 500)
    known = KnownParts(row_bytes(items), np.concatenate([both.run([_PART], chosen(at))[0] for at in pieces]))
    requests = [chosen(rng.integers(_ITEMS, size=CANDIDATES)) for _ in range(_REQUESTS)]
    alone = [np.array_equal(both.run([_PART], chosen(np.array([at])))[0][0], known.parts[at]) for at in range(500)]
    none = chosen(np.arange(0))
    for inputs in requests:
        with_known = both.run(tasks, none | {_KNOWN: known.of(inputs)})
        np.testing.assert_allclose(with_known, plain.run(tasks, inputs), atol=1e-5)
    rows_alone = _subgraph(changed, _ROWS)
    parts_alone = _subgraph(changed, _PART)
    one = {"user_keys": 1, "context_keys": 1, "behaviour_keys": 0}
    fewest = {name: golden[name][:count] for name, count in one.items() if name in golden}

    def of_item(session: Any, output: str, inputs: Inputs) -> None:
        names = {value.name for value in session.get_inputs()}
        session.run([output], {name: value for name, value in (inputs | fewest).items() if name in names})

    ways: Mapping[str, Callable[[Inputs], Any]] = {
        "the graph": lambda inputs: plain.run(tasks, inputs),
        "the graph that takes known parts, without any": lambda inputs: both.run(tasks, inputs),
        "keys to rows of the items": lambda inputs: of_item(rows_alone, _ROWS, inputs),
        "the item part, keys to rows included": lambda inputs: of_item(parts_alone, _PART, inputs),
        "known parts out of a cache": known.of,
        "the graph with known parts out of a cache": lambda inputs: both.run(tasks, none | {_KNOWN: known.of(inputs)}),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, run in ways.items():
            started = time.thread_time_ns()
            for inputs in requests:
                run(inputs)
            taken[way].append((time.thread_time_ns() - started) / 1000 / len(requests))
    figures = {way: float(np.quantile(times, 0.25)) for way, times in taken.items()}
    return figures | {"items whose part has other bits alone, %": 100 * (1 - float(np.mean(alone)))}


def main(folders: list[str]) -> None:
    """Print the figures of each bundle."""
    for folder in folders:
        print(f"{folder}: C={CANDIDATES}, thread CPU us, lower quartile of {_ROUNDS} rounds")
        for name, value in measured(Path(folder)).items():
            print(f"  {name:<50}{value:>8.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
