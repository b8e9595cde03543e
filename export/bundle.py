"""Owns how a trained run becomes a bundle: graph, parity, golden requests, manifest."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from export.graph import ServingGraph, graph_inputs, to_onnx
from export.parity import check_parity, torch_scores
from export.publish import Sign, next_version, publish, sha256_of
from export.requests import request
from models.ranker import Ranker
from models.run import Run, open_run
from service.manifest import FORMAT, GOLDEN_FILE, GRAPH_FILE, REPORT_FILE, LeftOut, Manifest, Parity, TaskSpec

GOLDEN_CANDIDATES = 64


@dataclass(frozen=True)
class Published:
    """What an export did: where the bundle lies and what was measured on the way."""

    folder: Path
    manifest: Manifest
    graph_bytes: int


def export_run(folder: Path, registry: Path, version: str | None, sign: Sign | None = None) -> Published:
    """Turn a run into a published bundle, with `sign` a signed one. Raises RunError, ParityError or PublishError, and then nothing was published."""
    run = open_run(folder)
    graph = ServingGraph(run.ranker, run.encoding).eval()
    model = to_onnx(graph, run.encoding)
    content = model.SerializeToString()
    schema, seed = run.encoding.schema, run.recipe.training.seed
    parity = check_parity(graph, content, schema, run.kept_rows, seed)
    files = {GRAPH_FILE: content, GOLDEN_FILE: _golden(graph, run, seed), REPORT_FILE: run.report}
    manifest = _manifest(run, version or next_version(registry, run.recipe.name), parity, files)
    return Published(publish(registry, manifest, files, sign), manifest, len(content))


def _golden(graph: ServingGraph, run: Run, seed: int) -> bytes:
    schema = run.encoding.schema
    length = schema.behaviour.max_length if schema.behaviour else 0
    inputs = request(schema, run.kept_rows, GOLDEN_CANDIDATES, length, np.random.default_rng(seed + 1))
    arrays = {f"inputs/{n}": v for n, v in inputs.items()} | {f"outputs/{n}": v for n, v in torch_scores(graph, inputs).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _manifest(run: Run, version: str, parity: Parity, files: dict[str, bytes]) -> Manifest:
    return Manifest(
        format=FORMAT,
        name=run.recipe.name,
        version=version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        architecture=run.recipe.model.architecture,
        composition=run.ranker.composition,
        feature_schema=run.encoding.schema,
        fingerprint=run.encoding.schema.fingerprint,
        inputs=graph_inputs(run.encoding.schema),
        tasks=tuple(
            TaskSpec(name=o.name, kind=o.kind, label=" AND ".join(o.label), space=" AND ".join(o.space) or "impression") for o in run.ranker.outputs
        ),
        left_out=_left_out(run.ranker, run),
        metrics=run.metrics,
        parity=parity,
        provenance=run.provenance | {"exporter": {"onnx": onnx.__version__, "onnxruntime": ort.__version__}},
        files={name: sha256_of(content) for name, content in files.items()},
    )


def _left_out(ranker: Ranker, run: Run) -> tuple[LeftOut, ...]:
    section = run.recipe.position
    if ranker.position is None or section is None:
        return ()
    constant = float(ranker.position.missing_constant().detach())
    columns = (section.column,) if section.cross is None else (section.column, section.cross)
    note = f"shifted the logit of '{section.head}' in training; its value at the missing position, {constant:.6g}, stays as a constant"
    return (LeftOut(part="position_tower", columns=columns, note=note),)
