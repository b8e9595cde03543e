"""The program that trains with one package, in that package's environment: `python -m bench.trainers.worker`.

It takes the package's module, the folder of the inputs, the file of the settings, and the file to write.
"""

import importlib
import os
import random
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from bench.trainers.exchange import (
    PARTS,
    EncodedInputs,
    TrainerResult,
    TrainerSettings,
    read_inputs,
    read_settings,
    write_result,
)


class Trainer(Protocol):
    """A model in training. `scores` are probabilities `[n, T]` in the order of the inputs' labels."""

    package: str
    version: str

    def train_epoch(self, epoch: int) -> None: ...

    def scores(self, part: str) -> np.ndarray: ...


def run_trainer(trainer: Trainer, settings: TrainerSettings) -> TrainerResult:
    """Train epoch by epoch, and score validation and test after each; the time is that of training alone."""
    seconds = []
    scores = []
    for epoch in range(settings.epochs):
        start = time.process_time()
        trainer.train_epoch(epoch)
        seconds.append(time.process_time() - start)
        scores.append({part: trainer.scores(part).astype(np.float64) for part in PARTS[1:]})
    return TrainerResult(trainer.package, trainer.version, tuple(seconds), tuple(scores))


def _trainer(module: str, inputs: EncodedInputs, settings: TrainerSettings) -> Trainer:
    built: Trainer = importlib.import_module(f"bench.trainers.{module}").build(inputs, settings)
    return built


def main(module: str, inputs: Path, settings_file: Path, out: Path) -> None:
    """Train with one package on one thread, and write the result."""
    torch.set_num_threads(1)
    settings = read_settings(settings_file)
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    result = run_trainer(_trainer(module, read_inputs(inputs), settings), settings)
    unfinished = out.with_suffix(".part.npz")
    write_result(result, unfinished)
    os.replace(unfinished, out)


if __name__ == "__main__":
    main(sys.argv[1], *(Path(argument) for argument in sys.argv[2:5]))
