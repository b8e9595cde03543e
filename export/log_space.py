"""Rewrites a graph so that it computes probabilities without logarithms."""

import onnx
from onnx import helper


def out_of_log_space(model: onnx.ModelProto) -> None:
    """Replace exp(log p) by p, and exp(log p + log q) by p q, so that probabilities are computed without logarithms."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    plain: dict[str, str] = {}
    # Find each exp whose input is a log, or the sum of two.
    for end in [n for n in graph.node if n.op_type == "Exp"]:
        source = made_by.get(end.input[0])
        logs = (
            [made_by.get(name) for name in source.input] if source is not None and source.op_type == "Add" else [source]
        )
        factors = [node.input[0] for node in logs if node is not None and node.op_type == "Log"]
        if len(factors) < len(logs):
            continue
        if len(factors) == 1 and factors[0] not in plain:
            plain[factors[0]] = end.output[0]
            graph.node.remove(end)
        else:
            end.CopyFrom(
                helper.make_node("Mul" if len(factors) == 2 else "Identity", factors, list(end.output), name=end.name)
            )
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [plain.get(name, name) for name in names]
    while unused := _unused(graph):
        for node in unused:
            graph.node.remove(node)


def _unused(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    return [node for node in graph.node if not used.intersection(node.output)]
