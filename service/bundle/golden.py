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
    """The trainer's request: its `inputs` by name, and the trainer's `outputs` by name: task scores `[C]`, vectors."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def read_golden(content: bytes, manifest: Manifest, max_behaviours: int) -> Golden:
    """Read the arrays that the manifest names. Raises BundleRejected. Sizes are checked before anything is unpacked."""
    axes = {"C": _MOST_CANDIDATES, "L": max(max_behaviours, 1)}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inputs = {}
            for spec in manifest.inputs:
                largest = prod(axes[a] if isinstance(a, str) else a for a in spec.shape)
                inputs[spec.name] = _array(archive, f"inputs/{spec.name}", largest)
            outputs = {task: _array(archive, f"outputs/{task}", _MOST_CANDIDATES) for task in manifest.task_names}
            for vector in manifest.outputs:
                largest = prod(axes[a] if isinstance(a, str) else a for a in vector.shape)
                outputs[vector.name] = _array(archive, f"outputs/{vector.name}", largest)
        return Golden(inputs, outputs)
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


def replay_golden(
    run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]], golden: Golden, manifest: Manifest
) -> None:
    """Run the graph on the golden request and compare every output with the trainer's.

    Every number must be finite and within 1e-4 of the trainer's, relative for values beyond 1.
    """
    if any(expected.size == 0 for expected in golden.outputs.values()):
        raise BundleRejected("golden_unreadable", "golden.npz: it has no candidate")
    try:
        computed = run(dict(golden.inputs))
    except Exception as error:  # onnxruntime raises its own classes, some of them plain Exception
        raise BundleRejected("golden_failed", f"the graph does not run on its golden request: {error}") from error
    for name in manifest.output_names:
        _compare(name, computed[name], golden.outputs[name])


def _compare(name: str, computed: np.ndarray, expected: np.ndarray) -> None:
    if not (np.isfinite(computed).all() and np.isfinite(expected).all()):
        raise BundleRejected("golden_not_finite", f"the golden request's {name} has a number that is NaN or infinite")
    if computed.shape != expected.shape:
        raise BundleRejected(
            "golden_mismatch", f"{name}: the graph gives the shape {computed.shape}, the trainer's is {expected.shape}"
        )
    difference = float(relative_difference(computed, expected).max())
    if difference > GOLDEN_TOLERANCE:
        raise BundleRejected(
            "golden_mismatch",
            f"{name} differs by {difference:.3g} from the trainer's, {GOLDEN_TOLERANCE:g} is allowed",
        )
