"""Runs every trainer on equal inputs, one process at a time, and tabulates AUC, GAUC and rows per processor second."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.trainers.exchange import (
    EncodedInputs,
    EncodedPart,
    TrainerResult,
    TrainerSettings,
    read_result,
    write_inputs,
    write_settings,
)
from features.files.writing import write_whole
from models.metrics.ranking import auc, gauc

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class TrainerRow:
    """One training: the test AUC and GAUC by label, of the epoch that validation selected, and the speed."""

    model: str
    package: str
    auc: Mapping[str, float]
    gauc: Mapping[str, float]
    epoch: int
    rows_per_second: float


def compare_trainers(
    pythons: Mapping[str, str], models: Sequence[str], seeds: int, epochs: int, runs: Path, out: Path
) -> list[TrainerRow]:
    """Train every model with every package over the seeds 1 to `seeds`; print the table and write it to `out`.

    `pythons` has the interpreter of each module of this folder that trains. A finished training in `runs` is reused.
    Raises RuntimeError if a training fails.
    """
    from bench.trainers.recipes import LABELS, encoded_inputs, opened

    rows = []
    for model in models:
        inputs = encoded_inputs(opened(model), LABELS[model])
        folder = runs / model
        write_inputs(inputs, folder)
        # The packages take turns within a seed, so that a busy machine slows all of them alike.
        for seed in range(1, seeds + 1):
            settings = settings_of(model, seed, epochs)
            for module, python in pythons.items():
                result = _trained(module, python, folder, settings)
                rows.append(measured(inputs, settings, result))
                print(f"{model}, seed {seed}: {result.package} {result.version}", file=sys.stderr)
        write_whole(out, table(rows).encode())
    print(table(rows))
    return rows


def settings_of(model: str, seed: int, epochs: int) -> TrainerSettings:
    """Return the settings of a model. ESMM has a tower per task and nothing below."""
    tower = (128, 64) if model == "esmm" else (32,)
    return TrainerSettings(model, seed, epochs=epochs, tower_hidden=tower)


def _trained(module: str, python: str, folder: Path, settings: TrainerSettings) -> TrainerResult:
    """Train in a process of the package's environment; return what it wrote."""
    name = f"{module}-{settings.epochs}-{settings.seed}"
    out = folder / f"{name}.npz"
    if not out.is_file():
        settings_file = folder / f"{name}.json"
        write_settings(settings, settings_file)
        arguments = [python, "-m", "bench.trainers.worker", module, str(folder), str(settings_file), str(out)]
        one_thread = {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"}
        environment = dict(os.environ) | one_thread | {"PYTHONPATH": str(_ROOT)}
        log = folder / f"{name}.log"
        with log.open("wb") as written:
            code = subprocess.run(
                arguments, env=environment, stdout=written, stderr=subprocess.STDOUT, timeout=_TIMEOUT_S, check=False
            ).returncode
        if code:
            raise RuntimeError(f"{module} ended with {code}; {log} says why")
    return read_result(out)


def measured(inputs: EncodedInputs, settings: TrainerSettings, result: TrainerResult) -> TrainerRow:
    """Measure the test part with the weights of the epoch whose validation GAUC of the first label is best.

    The speed is that of the fastest epoch: other work only adds to the time.
    """
    selected = [_gauc(inputs.parts["validation"], scores["validation"], 0) for scores in result.scores]
    epoch = int(np.argmax(selected))
    part = inputs.parts["test"]
    scores = result.scores[epoch]["test"]
    aucs = {name: _auc(part, scores, i) for i, name in enumerate(inputs.labels)}
    gaucs = {name: _gauc(part, scores, i) for i, name in enumerate(inputs.labels)}
    speed = len(inputs.parts["train"].labels) / min(result.cpu_seconds)
    package = f"{result.package} {result.version}"
    return TrainerRow(settings.model, package, aucs, gaucs, epoch + 1, speed)


def _auc(part: EncodedPart, scores: np.ndarray, column: int) -> float:
    value = auc(part.labels[:, column], scores[:, column])
    return float("nan") if value is None else value


def _gauc(part: EncodedPart, scores: np.ndarray, column: int) -> float:
    value = gauc(part.labels[:, column], scores[:, column], part.groups).value
    return float("nan") if value is None else value


def table(rows: Sequence[TrainerRow]) -> str:
    """Return a Markdown table per model: mean and sample deviation over the seeds."""
    lines: list[str] = []
    for model in dict.fromkeys(row.model for row in rows):
        of_model = [row for row in rows if row.model == model]
        labels = list(of_model[0].auc)
        titles = [f"{label}, AUC / GAUC" for label in labels]
        lines += ["", f"| {model} | {' | '.join(titles)} | rows/s | epoch | seeds |"]
        lines.append(f"| --- {'| --- ' * len(labels)}| --- | --- | --- |")
        for package in dict.fromkeys(row.package for row in of_model):
            lines.append(_line(package, [row for row in of_model if row.package == package], labels))
    return "\n".join(lines).strip() + "\n"


def _line(package: str, rows: Sequence[TrainerRow], labels: Sequence[str]) -> str:
    cells = [
        f"{_spread([row.auc[label] for row in rows])} / {_spread([row.gauc[label] for row in rows])}"
        for label in labels
    ]
    speed = f"{max(row.rows_per_second for row in rows):,.0f}"
    epochs = ", ".join(str(row.epoch) for row in rows)
    return f"| {package} | {' | '.join(cells)} | {speed} | {epochs} | {len(rows)} |"


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
