"""The ONNX graph of a trained model, whole in one file, or with its large tables beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.external.lookup import BYTES_PER_KEY, key_slots, lookup_table
from export.external.tensors import large_tables, refer_to_file, stand_ins, write_tensors
from export.graph import ServingGraph, to_onnx
from export.publish import PublishError, staging
from models.data.encoding.encoding import Encoding
from service.bundle.manifest import TABLES_FILE, ExternalTensor
from service.bundle.tables import Tables, map_tables

# From this size of tables and keys on, they lie beside the graph. A graph's own file ends at 2 GiB.
EXTERNAL_BYTES = 64 << 20
_LEAST_TABLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ExportedGraph:
    """A graph, and where its large tensors are. `path` and `digest` are None if it has none."""

    model: onnx.ModelProto
    content: bytes
    tables: Tables | None = None
    path: Path | None = None
    digest: str | None = None

    @property
    def external(self) -> tuple[ExternalTensor, ...]:
        """The tensors beside the graph."""
        return self.tables.tensors if self.tables is not None else ()


@contextmanager
def exported(
    graph: ServingGraph, encoding: Encoding, registry: Path, name: str, external_bytes: int
) -> Iterator[ExportedGraph]:
    """Export a graph; its large tensors are in a hidden folder of the registry until the end of the block.

    Tables and keys of `external_bytes` or more are large. Raises PublishError.
    """
    tables = large_tables(graph, min(external_bytes, _LEAST_TABLE_BYTES))
    size = sum(table.nbytes for table in tables.values()) + BYTES_PER_KEY * len(encoding.vocabulary.keys)
    if size < external_bytes or not tables:
        model = to_onnx(graph, encoding)
        yield ExportedGraph(model, model.SerializeToString())
        return
    # Rows that the exporter may look up by itself: the missing row, and those of unknown keys.
    rows = 1 + max(encoding.vocabulary.unknown_rows.values(), default=0)
    slots = key_slots(*lookup_table(encoding.vocabulary))
    with stand_ins(graph, tables, rows):
        model = to_onnx(graph, encoding, slots)
    named = {tensor.name for tensor in model.graph.initializer}
    if changed := sorted(set(tables) - named):
        raise PublishError(f"the exporter has changed the table {changed[0]}, so it cannot lie beside the graph")
    with staging(registry, name) as folder:
        path = folder / TABLES_FILE
        tensors = {name: table.detach().numpy() for name, table in tables.items()} | slots.tensors
        try:
            written = write_tensors(path, tensors)
            path.chmod(0o444)  # a reminder: services map the file, and a write would change what they serve
        except OSError as error:
            raise PublishError(f"{path}: {error.strerror or error}; nothing was published") from error
        refer_to_file(model, written.tensors)
        with path.open("rb") as file:
            mapped = map_tables(path, file.fileno(), written.tensors, written.digest)
        yield ExportedGraph(model, model.SerializeToString(), mapped, path, written.digest)
