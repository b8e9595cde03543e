"""Turns a trained run into a bundle: graph, parity, golden requests, manifest."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from export.exported import EXTERNAL_BYTES, exported
from export.graph import ServingGraph, graph_inputs, to_onnx
from export.parity import check_parity, torch_scores
from export.publish import PublishError, Sign, new_folder, next_version, publish, sha256_of
from export.reduced import reduction
from export.reduced.judged import impressions_of
from export.reduced.page import with_reduction
from export.reduced.precision import Precision, reduced
from export.requests import Inputs, request
from features import FeatureSchema
from features.table_names import TableNames
from models.data.cache import DEFAULT_CACHE
from models.network.model import MultiTaskModel
from models.recipe.sections.data import DataSection
from models.structures.base import Output
from models.training.run import Run, open_run
from service.bundle.loading import open_session
from service.bundle.manifest import (
    EXTERNAL_FORMAT,
    FORMAT,
    GOLDEN_FILE,
    GRAPH_FILE,
    REPORT_FILE,
    TABLES_FILE,
    ExternalTensor,
    LeftOut,
    Manifest,
    Parity,
    Reduced,
    Reduction,
    TaskSpec,
    VectorSpec,
)

GOLDEN_CANDIDATES = 64


@dataclass(frozen=True)
class Published:
    """The result of an export: the bundle's folder and the measurements."""

    folder: Path
    manifest: Manifest
    graph_bytes: int


def export_run(
    folder: Path,
    registry: Path,
    version: str | None,
    precision: Precision = "float32",
    max_loss: float = reduction.MAX_LOSS,
    cache: Path = DEFAULT_CACHE,
    sign: Sign | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Published:
    """Publish the run in a folder as `publish_run` does. `origin`: the nightly run that it comes from."""
    run = open_run(folder)
    if origin is not None:
        run = replace(run, provenance=run.provenance | {"nightly": dict(origin)})
    return publish_run(run, registry, version, precision, max_loss, cache, sign)


def publish_run(
    run: Run,
    registry: Path,
    version: str | None,
    precision: Precision = "float32",
    max_loss: float = reduction.MAX_LOSS,
    cache: Path = DEFAULT_CACHE,
    sign: Sign | None = None,
    external_bytes: int = EXTERNAL_BYTES,
) -> Published:
    """Publish a run as a bundle, signed if `sign` is given. Tables of `external_bytes` or more lie beside the graph.

    Raises RunError, ParityError, ReductionError or PublishError; nothing is published then.

    Torch is compared with the float32 graph, whatever the precision; a reduced graph is compared with the float32 one
    on labels, and its golden request has its own scores.
    """
    version = version or next_version(registry, run.recipe.name)
    new_folder(registry, run.recipe.name, version)
    graph = ServingGraph(run.ranker, run.encoding).eval()
    seed = run.recipe.training.seed
    with exported(graph, run.encoding, registry, run.recipe.name, external_bytes) as written:
        # Compare the graph with torch, and score the golden request
        parity = check_parity(graph, written.content, run.encoding.schema, run.kept_rows, seed, written.tables)
        golden = _golden_request(run, seed)
        scores = torch_scores(graph, golden)
        files = {GRAPH_FILE: written.content, GOLDEN_FILE: _golden(golden, scores), REPORT_FILE: run.report}
        reduced_graph = None
        if precision != "float32":
            if written.tables is not None:
                raise PublishError(
                    f"the tables are so large that they lie beside the graph, where {precision} cannot be; use float32"
                )
            files, reduced_graph = _in_reduced(run, written.model, precision, golden, max_loss, cache)

        # Publish it, and move the large tables into the bundle
        hashes = {name: sha256_of(content) for name, content in files.items()}
        if written.digest is not None:
            hashes[TABLES_FILE] = written.digest
        manifest = _manifest(run, version, parity, reduced_graph, hashes, written.external)
        moved = () if written.path is None else (written.path,)
        return Published(publish(registry, manifest, files, sign, moved), manifest, len(files[GRAPH_FILE]))


def graph_scores(run: Run, precision: Precision, inputs: Inputs) -> dict[str, np.ndarray]:
    """The outputs of a run's graph for one request, by name: of torch, or of the graph in a reduced precision.

    Raises ReductionError if the graph is not available in this precision.
    """
    graph = ServingGraph(run.ranker, run.encoding).eval()
    if precision == "float32":
        return torch_scores(graph, inputs)
    content = reduced(to_onnx(graph, run.encoding), precision).SerializeToString()
    return _session_scores(run, content, inputs)


def _session_scores(run: Run, content: bytes, inputs: Inputs) -> dict[str, np.ndarray]:
    names = [*run.ranker.score_names, *run.ranker.vector_shapes]
    return dict(zip(names, open_session(content, 1).run(names, inputs), strict=True))


def _in_reduced(
    run: Run, model: onnx.ModelProto, precision: Reduced, golden: Inputs, max_loss: float, cache: Path
) -> tuple[dict[str, bytes], Reduction]:
    impressions = impressions_of(run, cache)
    content = reduced(model, precision).SerializeToString()
    reduced_graph = reduction.measure(run, model.SerializeToString(), content, precision, impressions, max_loss)
    return {
        GRAPH_FILE: content,
        GOLDEN_FILE: _golden(golden, _session_scores(run, content, golden)),
        REPORT_FILE: with_reduction(run.report, reduced_graph),
    }, reduced_graph


def _golden_request(run: Run, seed: int) -> Inputs:
    schema = run.encoding.schema
    length = schema.behaviour.max_length if schema.behaviour else 0
    return request(schema, run.kept_rows, GOLDEN_CANDIDATES, length, np.random.default_rng(seed + 1))


def _golden(inputs: Inputs, scores: dict[str, np.ndarray]) -> bytes:
    arrays = {f"inputs/{n}": v for n, v in inputs.items()} | {f"outputs/{n}": v for n, v in scores.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def served_schema(run: Run) -> FeatureSchema:
    """Return the run's schema with the features that only rules read, and with the lag of the training data, so that
    serving sees the same behaviours.
    """
    schema = run.encoding.schema
    if run.recipe.rule_features is not None:
        schema = run.recipe.rule_features.behind(schema)
    if schema.behaviour is None or not run.recipe.data.behaviour_lag_s:
        return schema
    behaviour = schema.behaviour.model_copy(update={"lag_s": run.recipe.data.behaviour_lag_s})
    return schema.model_copy(update={"behaviour": behaviour})


def _manifest(
    run: Run,
    version: str,
    parity: Parity,
    reduced_graph: Reduction | None,
    hashes: dict[str, str],
    external: tuple[ExternalTensor, ...],
) -> Manifest:
    served = served_schema(run)
    return Manifest(
        format=EXTERNAL_FORMAT if external else FORMAT,
        name=run.recipe.name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        architecture=run.recipe.model.architecture,
        composition=run.ranker.composition,
        feature_schema=served,
        fingerprint=served.fingerprint,
        inputs=graph_inputs(run.encoding.schema),
        tasks=tuple(task for output in run.ranker.outputs for task in _tasks_of(output)),
        outputs=tuple(VectorSpec.model_validate({"name": n, "shape": s}) for n, s in run.ranker.vector_shapes.items()),
        external=external,
        left_out=_left_out(run.ranker, run),
        metrics=run.metrics,
        parity=parity,
        reduction=reduced_graph,
        tables=_table_names(run.recipe.data),
        provenance=run.provenance | {"exporter": {"onnx": onnx.__version__, "onnxruntime": ort.__version__}},
        files=hashes,
    )


def _table_names(data: DataSection) -> TableNames | None:
    """Return the names that the load needs to read the same tables; None if all have their defaults."""
    files = {role: getattr(data, role) for role in ("users", "items", "behaviours")}
    renamed = {role: file for role, file in files.items() if file and Path(file).stem != role}
    names = TableNames(user_id=data.user_id, item_id=data.item_id, time_ms=data.time_ms, **renamed)
    return None if names == TableNames() else names


def _tasks_of(output: Output) -> list[TaskSpec]:
    """Return the manifest entry of each score of an output."""
    space = " AND ".join(output.space) or "impression"
    labels = output.kind.described_labels(" AND ".join(output.label))
    named = zip(output.score_names, labels, strict=True)
    return [
        TaskSpec.model_validate({"name": n, "kind": output.kind.type, "label": t, "space": space}) for n, t in named
    ]


def _left_out(ranker: MultiTaskModel, run: Run) -> tuple[LeftOut, ...]:
    section = run.recipe.position
    if section is None:
        return ()
    notes = [
        f"shifted the logit of '{head}' in training; "
        f"its value at the missing position, {float(constant.detach()):.6g}, stays as a constant"
        for head, constant in ranker.position_constants().items()
    ]
    columns = (section.column, *section.crossed)
    return (LeftOut(part="position_tower", columns=columns, note="; ".join(notes)),)
