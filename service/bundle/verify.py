"""Owns the doubts about a bundle: what must hold before it may take a request. Every failure is a BundleRejected."""

import io
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from features.layouts import FREE_AXES, Layouts, graph_inputs
from service.bundle.manifest import MANIFEST_FILE, Manifest
from service.bundle.signature import UntrustedBundle, check_signature

GOLDEN_TOLERANCE = 1e-4
_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32"}


class BundleRejected(Exception):  # noqa: N818 - a state that is told, not a mistake
    """A bundle that must not serve. `code` is for counters and programs, `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def read_manifest(folder: Path, trusted_keys: Path | None = None) -> Manifest:
    """The manifest in a bundle's folder, which must be named like it; with `trusted_keys`, signed by one of them before it is even read."""
    path = folder / MANIFEST_FILE
    try:
        content = path.read_bytes()
        if trusted_keys is not None:
            check_signature(folder, content, trusted_keys)
        manifest = Manifest.model_validate_json(content)
    except UntrustedBundle as error:
        raise BundleRejected(error.code, error.detail) from None
    except FileNotFoundError:
        raise BundleRejected("bundle_missing", f"{path} does not exist") from None
    except OSError as error:
        raise BundleRejected("bundle_unreadable", f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the document"
        raise BundleRejected("manifest_invalid", f"{path}: {where}: {first['msg']}") from None
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BundleRejected(
            "manifest_invalid",
            f"{path} says {manifest.name}/{manifest.version}, its folder {folder.parent.name}/{folder.name}",
        )
    return manifest


def verified_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Every file of the bundle, read once, its SHA-256 equal to the manifest's; what was hashed is what is loaded."""
    files = {}
    for name, expected in manifest.files.items():
        if Path(name).name != name or name in (".", ".."):
            raise BundleRejected("manifest_invalid", f"files: {name!r} is not a plain file name")
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise BundleRejected("bundle_incomplete", f"{folder / name}: {error.strerror}") from None
        found = sha256(content).hexdigest()
        if found != expected:
            raise BundleRejected("hash_mismatch", f"{folder / name} has SHA-256 {found}, the manifest says {expected}")
        files[name] = content
    return files


def check_graph(session: Any, manifest: Manifest, layouts: Layouts) -> None:
    """The graph's inputs and outputs against the manifest, and the manifest's inputs against the widths of its own schema."""
    allowed = graph_inputs(layouts)
    stated = {i.name: (i.dtype, tuple(i.shape)) for i in manifest.inputs}
    for name, described in stated.items():
        if name not in allowed:
            raise BundleRejected(
                "inputs_mismatch", f"the manifest's input {name!r} is none of this schema; known: {', '.join(allowed)}"
            )
        if described != allowed[name]:
            raise BundleRejected(
                "inputs_mismatch", f"the manifest's input {name!r} is {described}, the schema makes it {allowed[name]}"
            )
    graph = {i.name: i for i in session.get_inputs()}
    if set(graph) != set(stated):
        raise BundleRejected(
            "inputs_mismatch", f"the graph wants {sorted(graph)}, the manifest states {sorted(stated)}"
        )
    for name, (dtype, shape) in stated.items():
        _check_tensor(name, graph[name], dtype, shape)
    outputs = {o.name: o for o in session.get_outputs()}
    if set(outputs) != set(manifest.task_names):
        raise BundleRejected(
            "outputs_mismatch", f"the graph gives {sorted(outputs)}, the manifest states {sorted(manifest.task_names)}"
        )
    for name, output in outputs.items():
        if _DTYPES.get(output.type) != "float32" or len(output.shape) != 1:
            raise BundleRejected(
                "outputs_mismatch", f"output {name!r} is {output.type} {output.shape}, a task score is float32 [C]"
            )


def _check_tensor(name: str, tensor: Any, dtype: str, shape: tuple[int | str, ...]) -> None:
    fits = len(tensor.shape) == len(shape) and all(
        isinstance(found, str) or found is None if wanted in FREE_AXES else found == wanted
        for found, wanted in zip(tensor.shape, shape, strict=True)
    )
    if _DTYPES.get(tensor.type) != dtype or not fits:
        raise BundleRejected(
            "inputs_mismatch",
            f"the graph wants {name!r} as {tensor.type} {tensor.shape}, the manifest says {dtype} {list(shape)}",
        )


def relative_difference(scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|scores - expected| / max(1, |expected|) in float64: absolute for probabilities, relative for values beyond 1."""
    reference = expected.astype(np.float64)
    return np.asarray(np.abs(scores - reference) / np.maximum(1, np.abs(reference)))


def replay_golden(score: Callable[[dict[str, np.ndarray]], np.ndarray], golden: bytes, manifest: Manifest) -> None:
    """The trainer's own request again: every task score finite and within 1e-4 of the trainer's, relative for values beyond 1."""
    try:
        with np.load(io.BytesIO(golden), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        inputs = {i.name: arrays[f"inputs/{i.name}"] for i in manifest.inputs}
        expected = np.stack([arrays[f"outputs/{t}"] for t in manifest.task_names])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleRejected("golden_unreadable", f"golden.npz: {error}") from None
    try:
        scored = score(inputs)
    except Exception as error:  # onnxruntime raises its own classes, some of them plain Exception
        raise BundleRejected("golden_failed", f"the graph does not run on its golden request: {error}") from error
    if not (np.isfinite(scored).all() and np.isfinite(expected).all()):
        raise BundleRejected("golden_not_finite", "a task score of the golden request is NaN or infinite")
    if scored.shape != expected.shape:
        raise BundleRejected(
            "golden_mismatch", f"the graph gives scores {scored.shape}, the trainer's are {expected.shape}"
        )
    difference = relative_difference(scored, expected).max(axis=1)
    if difference.max() > GOLDEN_TOLERANCE:
        task = manifest.task_names[int(difference.argmax())]
        raise BundleRejected(
            "golden_mismatch",
            f"{task} differs by {difference.max():.3g} from the trainer's score, {GOLDEN_TOLERANCE:g} is allowed",
        )
