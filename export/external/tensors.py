"""Moves the large tensors of a graph into one file beside it, without a copy of them in memory.

The exporter sees a short stand-in for each large embedding table, because the nodes of a lookup do not depend on the
number of its rows. The tables then go from the model to the file, piece by piece, and are hashed on the way.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor, nn

from export.publish import synced
from service.bundle.manifest import TABLES_FILE, ExternalTensor

_ALIGNMENT = 4096  # a page of memory
_WRITTEN_AT_ONCE = 16 << 20


class Written(NamedTuple):
    """The tensors in the file beside the graph, and the file's SHA-256."""

    tensors: tuple[ExternalTensor, ...]
    digest: str


def large_tables(model: nn.Module, least_bytes: int) -> dict[str, Tensor]:
    """The embedding tables of at least this size by their name in the graph; shared tables once."""
    tables = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.weight.nbytes >= least_bytes:
            tables[f"{name}.weight"] = module.weight
    return tables


@contextmanager
def stand_ins(model: nn.Module, tables: Mapping[str, Tensor], rows: int) -> Iterator[None]:
    """Put the first `rows` rows in the place of each table. They have to hold every row that a graph may fold in."""
    short = {id(table): nn.Parameter(table.detach()[:rows], requires_grad=False) for table in tables.values()}
    replaced = []
    for module in model.modules():
        if isinstance(module, nn.Embedding) and id(module.weight) in short:
            replaced.append((module, module.weight))
            module.weight = short[id(module.weight)]
    try:
        yield
    finally:
        for module, table in replaced:
            module.weight = table


def refer_to_file(model: onnx.ModelProto, tensors: tuple[ExternalTensor, ...]) -> None:
    """Make the graph's initialisers of these names refer to the file; those that it lacks are added.

    Loaders of other programs find the file by the same entries (ONNX external data).
    """
    present = {tensor.name: tensor for tensor in model.graph.initializer}
    for described in tensors:
        tensor = present.get(described.name)
        if tensor is None:
            tensor = model.graph.initializer.add()
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(described.dtype))
        tensor.CopyFrom(TensorProto(name=described.name, data_type=kind, dims=described.shape))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", TABLES_FILE), ("offset", described.offset), ("length", described.bytes)):
            tensor.external_data.add(key=key, value=str(value))


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> Written:
    """Write tensors one after another, each at the start of a page. Raises OSError."""
    described = []
    digest = sha256()
    place = 0
    with synced(path) as file:
        for name, values in tensors.items():
            gap = bytes(-place % _ALIGNMENT)
            file.write(gap)
            digest.update(gap)
            place += len(gap)
            spec = {"name": name, "dtype": values.dtype.name, "shape": values.shape, "offset": place}
            described.append(ExternalTensor.model_validate(spec))
            flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _WRITTEN_AT_ONCE):
                piece = flat[start : start + _WRITTEN_AT_ONCE]
                file.write(piece.data)
                digest.update(piece.data)
            place += len(flat)
    return Written(tuple(described), digest.hexdigest())
