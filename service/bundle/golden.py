"""Reads the golden request of a bundle and replays it: the graph must reproduce the trainer's scores."""

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib import format as npy

from features.statistics import relative_difference
from service.bundle.manifest import Manifest
from service.bundle.verify import BundleRejected

GOLDEN_TOLERANCE = 1e-4
_MOST_CANDIDATES = 10_000
_MOST_HEADER_BYTES = 10_000
_NUMBERS = "fiu"


@dataclass(frozen=True, eq=False)
class Golden:
    """The trainer's request: its `inputs` by name, and the trainer's `scores` `[tasks, C]`."""

    inputs: Mapping[str, np.ndarray]
    scores: np.ndarray


def read_golden(content: bytes, manifest: Manifest, max_behaviours: int) -> Golden:
    """Read the arrays that the manifest names. Raises BundleRejected. Sizes are checked before anything is unpacked."""
    axes = {"C": _MOST_CANDIDATES, "L": max(max_behaviours, 1)}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inputs = {}
            for spec in manifest.inputs:
                largest = prod(axes[a] if isinstance(a, str) else a for a in spec.shape)
                inputs[spec.name] = _array(archive, f"inputs/{spec.name}", largest)
            scores = [_array(archive, f"outputs/{task}", _MOST_CANDIDATES) for task in manifest.task_names]
        return Golden(inputs, np.stack(scores))
    except Exception as error:  # noqa: BLE001 - zipfile, zlib and numpy raise whatever a broken file leads them to
        raise BundleRejected("golden_unreadable", f"golden.npz: {type(error).__name__}: {error}") from None


def _array(archive: zipfile.ZipFile, name: str, largest: int) -> np.ndarray:
    """Read an array of numbers with at most `largest` values. Raises ValueError and whatever zipfile raises."""
    entry = archive.getinfo(f"{name}.npy")
    most_bytes = 8 * largest + _MOST_HEADER_BYTES
    if entry.file_size > most_bytes:
        raise ValueError(f"{name} has {entry.file_size} bytes, {most_bytes} are possible by the manifest")
    file = io.BytesIO(archive.read(entry))
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _fortran_order, dtype = read_header(file)
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"{name} holds {dtype}, which are no numbers")
    if min(shape, default=0) < 0 or prod(shape) > largest:
        raise ValueError(f"{name} has the shape {shape}, at most {largest} values are possible by the manifest")
    file.seek(0)
    array: np.ndarray = npy.read_array(file, allow_pickle=False)
    return array


def replay_golden(score: Callable[[dict[str, np.ndarray]], np.ndarray], golden: Golden, manifest: Manifest) -> None:
    """Score the golden request and compare with the trainer's scores.

    Every score must be finite and within 1e-4 of the trainer's score, relative for values beyond 1.
    """
    expected = golden.scores
    if expected.size == 0:
        raise BundleRejected("golden_unreadable", "golden.npz: it has no candidate")
    try:
        scored = score(dict(golden.inputs))
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
