"""Loads a model bundle: verifies it against its manifest and its golden request, warms it up, and scores with it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Timer
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from features.layouts import CANDIDATE_INPUTS, ITEM_INPUTS, Layouts
from features.within_request import INPUT, within_request
from service.bundle.golden import read_golden, replay_golden
from service.bundle.hashes import HashRecords
from service.bundle.manifest import GOLDEN_FILE, GRAPH_FILE, Manifest, TensorSpec, narrowed_inputs
from service.bundle.tables import STUB_FOLDER, Tables, open_tables
from service.bundle.verify import LOAD_TIMEOUT, BundleRejected, check_graph, read_manifest, verified_files
from service.bundle.warmup import warm

log = logging.getLogger("funnelrank.bundle")
PER_CANDIDATE: Final = frozenset({*ITEM_INPUTS, *CANDIDATE_INPUTS})  # the inputs with a row per candidate
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, eq=False)
class Bundle:
    """One version of one model, ready to score. Its session is freed with its last reference.

    `golden` holds the inputs of the golden request, which can be scored even before the first request of a caller.
    `graph_bytes` is the size of the graph's file; a session takes somewhat more memory. `tables` are the tensors beside
    the graph, which all processes of a host share.
    """

    manifest: Manifest
    layouts: Layouts
    session: Any
    tasks: tuple[str, ...]
    inputs: frozenset[str]
    golden: Mapping[str, np.ndarray]
    graph_bytes: int = 0
    tables: Tables | None = None

    @property
    def label(self) -> str:
        return self.manifest.label

    @cached_property
    def narrowed(self) -> dict[str, int]:
        """The widths of the inputs that are narrower than the schema's rows, whose last columns only rules read."""
        return narrowed_inputs(self.manifest.inputs, self.layouts)

    @cached_property
    def unread_features(self) -> frozenset[str]:
        """The names of features of items and candidates that only rules read."""
        return unread_features(self.manifest.inputs, self.layouts)

    def graph_inputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Select, from a request's inputs, those that this graph takes.

        The comparison of a request's candidates is computed here, before the request is cut into chunks, because the
        schema of another version may compare other features.
        """
        if INPUT in self.inputs:
            compared = within_request(self.layouts.compared, inputs["item_numerics"])
            inputs = {**inputs, INPUT: compared}
        selected = {name: inputs[name] for name in self.inputs}
        for name, width in self.narrowed.items():
            selected[name] = np.ascontiguousarray(selected[name][:, :width])
        return selected

    def graph_inputs_at(self, inputs: Mapping[str, np.ndarray], places: np.ndarray) -> dict[str, np.ndarray]:
        """Like `graph_inputs`, for the candidates at these positions, int64 `[m]`, compared with all candidates."""
        arrays = self.graph_inputs(inputs)
        return {name: array[places] if name in PER_CANDIDATE else array for name, array in arrays.items()}

    def score(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Named inputs -> task scores, float32 `[tasks, C]` in the order of `tasks`. Raises onnxruntime's errors."""
        return stacked(self.session.run(self.tasks, inputs, None))

    def score_with(self, inputs: dict[str, np.ndarray], names: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the task scores as `score` does, and the graph's other outputs of these names."""
        computed = self.session.run((*self.tasks, *names), inputs, None)
        count = len(self.tasks)
        return stacked(computed[:count]), computed[count:]

    def vectors(self, inputs: dict[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Return these outputs of the graph beside the task scores. Raises onnxruntime's errors."""
        computed: list[np.ndarray] = self.session.run(names, inputs, None)
        return computed


def unread_features(inputs: Sequence[TensorSpec], layouts: Layouts) -> frozenset[str]:
    """Return the names of features of items and candidates that the graph does not read.

    The item's numbers count as read if the graph does not take them at all, because fusion formulas may read them then.
    """
    widths: dict[str, int | None] = dict.fromkeys((*CANDIDATE_INPUTS, "item_keys"), 0)
    widths |= dict.fromkeys(spec.name for spec in inputs)
    widths |= narrowed_inputs(inputs, layouts)
    unread: set[str] = set()
    for group, layout in (("item", layouts.item), ("candidate", layouts.candidate)):
        numeric_width = widths.get(f"{group}_numerics")
        if numeric_width is not None:
            columns = [(f.name, layout.number_columns([f.name])) for f in layout.features]
            unread.update(name for name, places in columns if len(places) and places[0] >= numeric_width)
        key_width = widths.get(f"{group}_keys")
        if key_width is not None:
            unread.update(name for name, columns in layout.key_columns.items() if columns.start >= key_width)
    return frozenset(unread)


def open_session(graph: bytes, threads: int, tables: Tables | None = None) -> Any:
    """Open a session that runs one operator at a time, on `threads` threads that do not spin while idle.

    The session reads the memory of `tables` and does not copy it, so they must live as long as it does.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # C and L differ from request to request, so a remembered pattern never fits
    options.log_severity_level = 3
    if tables is None:
        return _session(graph, options)
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(STUB_FOLDER))
    for name, value in tables.initializers.items():
        options.add_initializer(name, value)
    return _session(graph, options)


def _session(graph: bytes, options: ort.SessionOptions) -> Any:
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def load_bundle(
    folder: Path,
    threads: int,
    largest: int,
    trusted_keys: Path | None = None,
    *,
    manifest: Manifest | None = None,
    seconds: float = 600.0,
    hashes: HashRecords | None = None,
) -> Bundle:
    """Load, verify and warm up a bundle.

    Raises BundleRejected with a code and a detail for every fault. `manifest` is a manifest that was read before; None
    reads it here. `largest` is the highest number of candidates scored at once. A graph that runs for longer than
    `seconds` is stopped. `hashes` says which large files this host has hashed already.
    """
    # onnxruntime checks `terminate` between nodes, so an endless graph can be stopped.
    run_options = ort.RunOptions()
    timer = Timer(seconds, setattr, (run_options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        manifest = manifest or read_manifest(folder, trusted_keys)
        return _load(folder, threads, largest, manifest, run_options, hashes or HashRecords())
    except BundleRejected as error:
        if run_options.terminate:
            raise BundleRejected(LOAD_TIMEOUT, f"it was not loaded within {seconds:g} s ({error.code})") from error
        raise
    except Exception as error:
        # The files come from outside: libraries may raise any error for them, and no such error may end a worker.
        log.exception("loading %s failed", folder)
        raise BundleRejected("bundle_unusable", f"{type(error).__name__}: {error}") from error
    finally:
        timer.cancel()


def _load(
    folder: Path, threads: int, largest: int, manifest: Manifest, run_options: Any, hashes: HashRecords
) -> Bundle:
    # Verify the files and open the session
    files = verified_files(folder, manifest, (GRAPH_FILE, GOLDEN_FILE), hashes)
    tables = open_tables(folder, manifest, hashes)
    try:
        session = open_session(files[GRAPH_FILE], threads, tables)
    except Exception as error:  # onnxruntime raises its own classes, some of them plain Exception
        raise BundleRejected("graph_unreadable", f"{GRAPH_FILE}: {error}") from error
    layouts = Layouts.of(manifest.feature_schema)
    check_graph(session, manifest, layouts)

    def score(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return stacked(session.run(manifest.task_names, inputs, run_options))

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = manifest.output_names
        return dict(zip(names, session.run(names, inputs, run_options), strict=True))

    # Compare it with the trainer's scores, and warm it up
    golden = read_golden(files[GOLDEN_FILE], manifest, layouts.max_behaviours)
    replay_golden(run, golden, manifest)
    try:
        warm(score, manifest, layouts.max_behaviours, largest)
    except Exception as error:  # as above
        raise BundleRejected("warm_up_failed", str(error)) from error
    if tables is not None:
        tables.verify_again(hashes)
    names = frozenset(i.name for i in manifest.inputs)
    size = len(files[GRAPH_FILE])
    return Bundle(manifest, layouts, native(session), manifest.task_names, names, golden.inputs, size, tables)


def native(session: Any) -> Any:
    """Return the C++ session behind onnxruntime's Python object.

    The Python object compares the inputs' names with the graph's in a loop at every run; the C++ session does so too,
    and raises its own error.
    """
    return session._sess


def stacked(scores: list[np.ndarray]) -> np.ndarray:
    """One array `[C]` per task -> float32 `[tasks, C]`."""
    return np.concatenate(scores).reshape(len(scores), -1)
