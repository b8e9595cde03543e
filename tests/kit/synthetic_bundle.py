"""A synthetic bundle whose scores can be computed by hand, for tests of the service."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from features import FeatureSchema
from features.layouts import Layouts, graph_inputs
from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout

TASKS = ("pctr", "pcvr", "pctcvr")
SCHEMA: dict[str, Any] = {
    "user": [
        {"name": "user_id", "type": "categorical"},
        {"name": "gender", "type": "categorical"},
        {"name": "interests", "type": "multi_categorical", "vocabulary": "tag", "max_values": 3},
        {"name": "age", "type": "numeric"},
    ],
    "item": [
        {"name": "item_id", "type": "categorical"},
        {"name": "tag", "type": "categorical"},
        {"name": "topics", "type": "multi_categorical", "vocabulary": "tag", "max_values": 2},
        {"name": "price", "type": "numeric", "transform": "log1p"},
        {"name": "quality", "type": "numeric"},
    ],
    "context": [{"name": "tab", "type": "categorical"}, {"name": "hour", "type": "numeric"}],
    "behaviour": {"max_length": 5, "item_features": ["item_id", "tag", "price"], "scene_vocabulary": "tab"},
    "user_id_feature": "user_id",
    "item_id_feature": "item_id",
}


def scores_by_hand(inputs: Mapping[str, np.ndarray], bias: float = 0.0) -> dict[str, np.ndarray]:
    """The synthetic model in numpy: every score depends on every input."""

    def of_keys(keys: np.ndarray) -> np.ndarray:
        return (np.mod(keys, 97).astype(np.float32) / np.float32(97)).sum(axis=-1)

    def of_numerics(numerics: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(numerics), np.float32(0.5), numerics).sum(axis=-1) * np.float32(0.01)

    def of_rows(name: str) -> np.ndarray:
        keys = inputs.get(f"{name}_keys")
        numerics = inputs.get(f"{name}_numerics")
        parts = [of_keys(keys)] if keys is not None else []
        return sum(parts + ([of_numerics(numerics)] if numerics is not None else []), np.float32(0))

    shared = of_rows("user").sum() + of_rows("context").sum()
    if "behaviour_keys" in inputs:
        shared += np.float32(0.1) * of_rows("behaviour").sum()
        shared += np.mod(inputs["behaviour_times"], 1000).astype(np.float32).sum() / np.float32(1000)
    item = of_rows("item") + of_rows("candidate")
    if "item_within" in inputs:
        item = item + np.where(np.isnan(inputs["item_within"]), np.float32(0.5), inputs["item_within"]).sum(axis=-1)
    if "counter_numerics" in inputs:
        item = item + of_numerics(inputs["counter_numerics"])
    pctr = 1 / (1 + np.exp(-(np.float32(0.3) * item + np.float32(0.1) * shared - np.float32(1) + np.float32(bias))))
    pcvr = 1 / (1 + np.exp(item - np.float32(0.1) * shared))
    return {"pctr": pctr, "pcvr": pcvr, "pctcvr": pctr * pcvr}


def graph_of(layouts: Layouts, bias: float = 0.0, nan_above: float | None = None) -> bytes:
    """The same model as ONNX. With `nan_above`, an item whose numerics have a larger sum gets NaN."""
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def node(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    inputs = graph_inputs(layouts)
    last = constant([-1], np.int64)
    all_rows = constant([0], np.int64)

    def rows(name: str) -> str:
        """The sum over a group's columns; a constant if the schema lacks the group."""
        parts = []
        if f"{name}_keys" in inputs:
            part = node("Cast", node("Mod", f"{name}_keys", constant(97, np.int64)), to=TensorProto.FLOAT)
            parts.append(node("ReduceSum", node("Div", part, constant(97)), last, keepdims=0))
        if f"{name}_numerics" in inputs:
            filled = node("Where", node("IsNaN", f"{name}_numerics"), constant(0.5), f"{name}_numerics")
            parts.append(node("Mul", node("ReduceSum", filled, last, keepdims=0), constant(0.01)))
        if not parts:
            return constant(0.0)
        return parts[0] if len(parts) == 1 else node("Add", *parts)

    shared = constant(0.0)
    for name in ("user", "context"):
        if f"{name}_keys" in inputs or f"{name}_numerics" in inputs:
            shared = node("Add", shared, node("ReduceSum", rows(name), all_rows, keepdims=0))
    if "behaviour_keys" in inputs:
        shared = node(
            "Add", shared, node("Mul", constant(0.1), node("ReduceSum", rows("behaviour"), all_rows, keepdims=0))
        )
        times = node("Cast", node("Mod", "behaviour_times", constant(1000, np.int64)), to=TensorProto.FLOAT)
        shared = node("Add", shared, node("Div", node("ReduceSum", times, all_rows, keepdims=0), constant(1000)))
        zero = node("Mul", node("Cast", "request_time", to=TensorProto.FLOAT), constant(0))
        shared = node("Add", shared, node("ReduceSum", zero, all_rows, keepdims=0))
    item = rows("item")
    item = node("Add", item, node("Add", rows("candidate"), rows("counter")))
    if "item_within" in inputs:
        filled = node("Where", node("IsNaN", "item_within"), constant(0.5), "item_within")
        item = node("Add", item, node("ReduceSum", filled, last, keepdims=0))
    pull = node("Mul", constant(0.1), shared)
    logit = node("Add", node("Add", node("Mul", constant(0.3), item), pull), constant(bias - 1))
    if nan_above is not None:
        total = node("ReduceSum", "item_numerics", last, keepdims=0)
        logit = node("Where", node("Greater", total, constant(nan_above)), constant(np.nan), logit)
    nodes.append(helper.make_node("Sigmoid", [logit], ["pctr"]))
    nodes.append(helper.make_node("Sigmoid", [node("Sub", pull, item)], ["pcvr"]))
    nodes.append(helper.make_node("Mul", ["pctr", "pcvr"], ["pctcvr"]))
    types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    graph = helper.make_graph(
        nodes,
        "synthetic",
        [helper.make_tensor_value_info(n, types[d], list(s)) for n, (d, s) in inputs.items()],
        [helper.make_tensor_value_info(t, TensorProto.FLOAT, ["C"]) for t in TASKS],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def golden_inputs(layouts: Layouts, candidates: int = 64, behaviours: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    axes = {"C": candidates, "L": behaviours}
    made = {}
    for name, (dtype, shape) in graph_inputs(layouts).items():
        size = [axes[a] if isinstance(a, str) else a for a in shape]
        made[name] = (
            generator.integers(0, 10**12, size) if dtype == "int64" else generator.normal(size=size).astype(np.float32)
        )
    return made


def publish(
    registry: Path,
    version: str,
    *,
    name: str = "synthetic",
    schema: dict[str, Any] | None = None,
    bias: float = 0.0,
    nan_above: float | None = None,
    golden_bias: float | None = None,
    golden_nan: bool = False,
    change: Callable[[dict[str, Any]], object] | None = None,
) -> Path:
    """Publish a synthetic bundle; `change` may spoil its manifest before it is written."""
    feature_schema = FeatureSchema.model_validate(schema or SCHEMA)
    layouts = Layouts.of(feature_schema)
    folder = registry / name / version
    folder.mkdir(parents=True)
    inputs = golden_inputs(layouts)
    outputs = scores_by_hand(inputs, bias if golden_bias is None else golden_bias)
    if golden_nan:
        outputs["pctr"][3] = np.nan
    golden = io.BytesIO()
    np.savez(golden, **{f"inputs/{k}": v for k, v in inputs.items()}, **{f"outputs/{k}": v for k, v in outputs.items()})
    files = {
        "model.onnx": graph_of(layouts, bias, nan_above),
        "golden.npz": golden.getvalue(),
        "report.html": b"<p>synthetic</p>",
    }
    for file, content in files.items():
        (folder / file).write_bytes(content)
    manifest: dict[str, Any] = {
        "format": 1,
        "name": name,
        "version": version,
        "created_at": "2026-01-01T00:00:00Z",
        "architecture": "synthetic",
        "composition": {"trunk": "none"},
        "feature_schema": feature_schema.model_dump(mode="json"),
        "fingerprint": feature_schema.fingerprint,
        "inputs": [{"name": n, "dtype": d, "shape": list(s)} for n, (d, s) in graph_inputs(layouts).items()],
        "tasks": [{"name": t, "kind": "probability", "label": t, "space": "impression"} for t in TASKS],
        "metrics": {},
        "parity": {"candidates": [1], "behaviours": [0], "tolerance": 1e-5, "max_abs_difference": 0.0},
        "provenance": {},
        "files": {f: hashlib.sha256(c).hexdigest() for f, c in files.items()},
    }
    if change:
        change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def go_live(registry: Path, version: str, name: str = "synthetic") -> None:
    write_rollout(registry, Target(name=name, version=version), "test")


def without_task(folder: Path, task: str) -> None:
    """Remove a task from a published bundle: graph, golden request, manifest and hashes."""
    model = onnx.load(folder / "model.onnx")
    model.graph.output.remove(next(o for o in model.graph.output if o.name == task))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files if name != f"outputs/{task}"}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    (folder / "golden.npz").write_bytes(packed.getvalue())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tasks"] = [t for t in manifest["tasks"] if t["name"] != task]
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def vectors_by_hand(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs that `with_vectors` adds: twice the item's numbers `[C, N]`, and the user's numbers `[U]`."""
    filled = {name: np.nan_to_num(inputs[f"{name}_numerics"]) for name in ("item", "user")}
    return {"item_vector": 2 * filled["item"], "user_representation": filled["user"][0]}


def with_vectors(folder: Path, change: Callable[[dict[str, np.ndarray]], object] | None = None) -> Path:
    """Add a vector per candidate and one of the user to a published bundle: graph, golden request, manifest, hashes.

    `change` may spoil the golden request's vectors.
    """
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "v0"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "v_axis"))
    for name, result in (("item", "v_item"), ("user", "v_user")):
        model.graph.node.append(helper.make_node("IsNaN", [f"{name}_numerics"], [f"{result}_missing"]))
        given = [f"{result}_missing", "v0", f"{name}_numerics"]
        model.graph.node.append(helper.make_node("Where", given, [result]))
    model.graph.node.append(helper.make_node("Add", ["v_item", "v_item"], ["item_vector"]))
    model.graph.node.append(helper.make_node("Squeeze", ["v_user", "v_axis"], ["user_representation"]))
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    inputs = {n.removeprefix("inputs/"): values for n, values in arrays.items() if n.startswith("inputs/")}
    vectors = vectors_by_hand(inputs)
    shapes: dict[str, list[Any]] = {
        "item_vector": ["C", vectors["item_vector"].shape[1]],
        "user_representation": list(vectors["user_representation"].shape),
    }
    for name, shape in shapes.items():
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    if change:
        change(vectors)
    packed = io.BytesIO()
    np.savez(packed, **arrays, **{f"outputs/{name}": values for name, values in vectors.items()})
    (folder / "golden.npz").write_bytes(packed.getvalue())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"] = [{"name": name, "shape": shape} for name, shape in shapes.items()]
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
