"""The serving graph in reduced precision: products in int8, or embedding tables in half precision."""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from service.bundle.manifest import Reduced

Precision = Literal["float32"] | Reduced
FEWEST_WEIGHTS = 4096  # a smaller product costs less than bringing its input to eight bits
_LARGEST_HALF = float(np.finfo(np.float16).max)
# ONNX Runtime recommends optimising first; here that would fuse products and biases into operators that cannot be
# reduced.
_AS_IF_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


class ReductionError(RuntimeError):
    """A graph that is not available in this precision, or that loses more by it than is allowed."""


def reduced(model: onnx.ModelProto, precision: Reduced) -> onnx.ModelProto:
    """Return a copy of the float32 graph in reduced precision, with the same inputs and outputs. Raises
    ReductionError.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return _with_int8_products(copy) if precision == "int8" else _with_half_tables(copy)


def _with_int8_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store constant matrices in int8 with a scale per column; the other factor is scaled to eight bits in each run."""
    sizes = {t.name: t.dims for t in model.graph.initializer}
    large = {name for name, dims in sizes.items() if len(dims) == 2 and dims[0] * dims[1] >= FEWEST_WEIGHTS}
    products = [n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in large]
    if not products:
        raise ReductionError(
            f"int8: no layer has {FEWEST_WEIGHTS:,} weights or more, so there is nothing to reduce; export in float32"
        )
    helper.set_model_props(model, _AS_IF_PREPARED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        options = {"op_types_to_quantize": ["MatMul"], "nodes_to_quantize": products}
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8, **options)
        return onnx.load(path)


def _with_half_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store embedding tables in float16; the rows that a request looks up are cast to float32 right after the
    lookup.
    """
    tables = {t.name: t for t in model.graph.initializer if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT}
    lookups = [n for n in model.graph.node if n.op_type == "Gather" and n.input[0] in tables]
    if not lookups:
        raise ReductionError(
            "float16: the graph looks nothing up in a table, so there is nothing to reduce; export in float32"
        )
    # Convert the tables.
    for name in {n.input[0] for n in lookups}:
        values = numpy_helper.to_array(tables[name])
        if np.abs(values).max(initial=0) > _LARGEST_HALF:
            raise ReductionError(
                f"float16: the table '{name}' holds a number beyond {_LARGEST_HALF:g}; export in float32"
            )
        tables[name].CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))
    # Add a cast after each lookup, so that everything after it reads float32.
    nodes = list(model.graph.node)
    for lookup in lookups:
        looked_up = lookup.output[0]
        lookup.output[0] = f"{looked_up}_half"
        nodes.insert(
            nodes.index(lookup) + 1,
            helper.make_node(
                "Cast", [f"{looked_up}_half"], [looked_up], name=f"{looked_up}_float", to=onnx.TensorProto.FLOAT
            ),
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
