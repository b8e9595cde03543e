"""Puts a table beside the graph of a synthetic bundle, for tests of the service."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.manifest import TABLES_FILE

WIDTH = 32


def table_of(value: float, rows: int) -> np.ndarray:
    """A table `[rows, WIDTH]` of one value."""
    return np.full((rows, WIDTH), value, np.float32)


def with_tables(folder: Path, value: float = 1.0, rows: int = 1000) -> Path:
    """Multiply `pctr` by a value from a table in `tables.bin`: a graph of format 2 that scores as before for 1.0."""
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    node = next(n for n in graph.node if n.output[0] == "pctr")
    node.output[0] = "pctr_before"
    for other in graph.node:
        other.input[:] = ["pctr_before" if name == "pctr" else name for name in other.input]
    place = list(graph.node).index(node) + 1
    added = [
        helper.make_node("Mod", ["item_keys", "t_rows"], ["t_places"]),
        helper.make_node("Slice", ["t_places", "t_zero", "t_one", "t_one"], ["t_column"]),
        helper.make_node("Squeeze", ["t_column", "t_one"], ["t_row"]),
        helper.make_node("Gather", ["table", "t_row"], ["t_embedded"]),
        helper.make_node("ReduceMean", ["t_embedded"], ["t_factor"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["pctr_before", "t_factor"], ["pctr"]),
    ]
    for i, one in enumerate(added):
        graph.node.insert(place + i, one)
    for name, number in (("t_rows", rows), ("t_zero", [0]), ("t_one", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.int64), name))
    table = table_of(value, rows)
    external = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=table.shape)
    external.data_location = TensorProto.EXTERNAL
    for key, text in (("location", TABLES_FILE), ("offset", "0"), ("length", str(table.nbytes))):
        external.external_data.add(key=key, value=text)
    graph.initializer.append(external)
    (folder / TABLES_FILE).write_bytes(table.tobytes())
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format"] = 2
    manifest["external"] = [{"name": "table", "dtype": "float32", "shape": table.shape, "offset": 0}]
    files = [*manifest["files"], TABLES_FILE]
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
