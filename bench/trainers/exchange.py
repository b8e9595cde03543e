"""The encoded inputs as numpy files, which a trainer in any environment reads. Needs numpy alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("train", "validation", "test")
_DESCRIBED = "described.json"


@dataclass(frozen=True)
class EncodedPart:
    """Impressions of one part, arrays over `n` rows in the part's order.

    `keys` int32 `[n, K]`: per column a number from 0 to its size. `numerics` float32 `[n, N]`: standardised, in
    (-1, 1), 0 where missing. `bins` int32 `[n, N]`: the quantile of each numeric, 0 where missing.
    `labels` float32 `[n, T]`; `groups` int64 `[n]`: the list of each impression, for GAUC.
    """

    keys: np.ndarray
    numerics: np.ndarray
    bins: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class EncodedInputs:
    """The parts by name; `key_sizes` and `bin_sizes`: values of each column; `labels`: their names."""

    parts: Mapping[str, EncodedPart]
    key_sizes: tuple[int, ...]
    bin_sizes: tuple[int, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class TrainerSettings:
    """What every trainer gets. `model`: mmoe, ple or esmm; `epochs`: as many are trained, and scored after each."""

    model: str
    seed: int
    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 0.001
    weight_decay: float = 0.00001
    dropout: float = 0.1
    embedding: int = 8
    expert_hidden: tuple[int, ...] = (128, 64)
    tower_hidden: tuple[int, ...] = (32,)


@dataclass(frozen=True)
class TrainerResult:
    """The processor time of each epoch's training in seconds, and the scores `[n, T]` by epoch and part."""

    package: str
    version: str
    cpu_seconds: tuple[float, ...]
    scores: tuple[Mapping[str, np.ndarray], ...]


def write_inputs(inputs: EncodedInputs, folder: Path) -> None:
    """Write a file per part, and one that describes the columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in inputs.parts.items():
        np.savez(folder / f"{name}.npz", **vars(part))
    described = {"key_sizes": inputs.key_sizes, "bin_sizes": inputs.bin_sizes, "labels": inputs.labels}
    (folder / _DESCRIBED).write_text(json.dumps(described))


def read_inputs(folder: Path) -> EncodedInputs:
    """Read what `write_inputs` wrote."""
    parts = {}
    for name in PARTS:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            parts[name] = EncodedPart(**{column: arrays[column] for column in arrays.files})
    described = json.loads((folder / _DESCRIBED).read_text())
    return EncodedInputs(parts, **{name: tuple(values) for name, values in described.items()})


def write_settings(settings: TrainerSettings, file: Path) -> None:
    """Write the settings as JSON."""
    file.write_text(json.dumps(asdict(settings)))


def read_settings(file: Path) -> TrainerSettings:
    """Read what `write_settings` wrote."""
    stored: dict[str, Any] = json.loads(file.read_text())
    for name in ("expert_hidden", "tower_hidden"):
        stored[name] = tuple(stored[name])
    return TrainerSettings(**stored)


def write_result(result: TrainerResult, file: Path) -> None:
    """Write the scores and times of one training."""
    arrays: dict[str, Any] = {
        f"{epoch}/{part}": s for epoch, of_parts in enumerate(result.scores) for part, s in of_parts.items()
    }
    seconds = np.array(result.cpu_seconds)
    np.savez(file, package=np.array(result.package), version=np.array(result.version), cpu_seconds=seconds, **arrays)


def read_result(file: Path) -> TrainerResult:
    """Read what `write_result` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        seconds = tuple(float(second) for second in arrays["cpu_seconds"])
        scores = tuple({p: arrays[f"{epoch}/{p}"] for p in PARTS[1:]} for epoch in range(len(seconds)))
        return TrainerResult(str(arrays["package"]), str(arrays["version"]), seconds, scores)
