"""Owns a model bundle in memory: loaded, verified against its manifest and its golden requests, warmed, ready to score."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from features.layouts import Layouts
from service.bundle.manifest import GOLDEN_FILE, GRAPH_FILE, Manifest
from service.bundle.verify import BundleRejected, check_graph, read_manifest, replay_golden, verified_files
from service.bundle.warmup import warm


@dataclass(frozen=True, eq=False)
class Bundle:
    """One version of one model, ready to score. Its session goes with its last reference."""

    manifest: Manifest
    layouts: Layouts
    session: Any
    tasks: tuple[str, ...]
    inputs: frozenset[str]

    @property
    def label(self) -> str:
        return f"{self.manifest.name}/{self.manifest.version}"

    def own(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of a request's inputs those that this graph has."""
        return {name: inputs[name] for name in self.inputs}

    def score(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Named inputs -> task scores, float32 `[tasks, C]` in the order of `tasks`. Raises onnxruntime's errors."""
        scores: list[np.ndarray] = self.session.run(self.tasks, inputs)
        return np.concatenate(scores).reshape(len(scores), -1)


def open_session(graph: bytes, threads: int) -> Any:
    """A session with explicit threads: `threads` inside an operator, one operator at a time, and none that spins while idle."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # C and L differ from request to request, so a remembered pattern never fits
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def load_bundle(folder: Path, threads: int, largest: int, trusted_keys: Path | None = None) -> Bundle:
    """A bundle that has proved itself. Raises BundleRejected with a code and a detail on any doubt."""
    manifest = read_manifest(folder, trusted_keys)
    files = verified_files(folder, manifest)
    try:
        session = open_session(files[GRAPH_FILE], threads)
    except Exception as error:  # onnxruntime raises its own classes, some of them plain Exception
        raise BundleRejected("graph_unreadable", f"{GRAPH_FILE}: {error}") from error
    layouts = Layouts.of(manifest.feature_schema)
    check_graph(session, manifest, layouts)
    bundle = Bundle(manifest, layouts, session, manifest.task_names, frozenset(i.name for i in manifest.inputs))
    replay_golden(bundle.score, files[GOLDEN_FILE], manifest)
    try:
        warm(bundle.score, manifest, layouts.max_behaviours, largest)
    except Exception as error:  # as above
        raise BundleRejected("warm_up_failed", str(error)) from error
    return bundle
