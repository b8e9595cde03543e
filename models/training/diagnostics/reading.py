"""Measures what reading from disk costs the training loop."""

import copy
import time
from itertools import islice

import numpy as np
import torch

from models.data.batches import Batch, shuffled_batches
from models.data.cache import Data
from models.network.model import MultiTaskModel
from models.training.updates.optimisation import Optimiser

TURNS = 3


def reading_speed(ranker: MultiTaskModel, data: Data, steps: int, prefetch: int) -> dict[str, float]:
    """Rows/s of the training loop over the memory-mapped files and over the same batches as tensors, and their ratio.

    The two take turns, each training a copy of the model step by step, and their median steps are compared, so that
    other load on the machine affects both alike.
    """
    training = data.recipe.training
    in_memory = list(islice(shuffled_batches(data, "train", training.batch_size, training.seed, 0), steps))
    # Train a copy, and leave the first step, which allocates memory, out of the measurement.
    copied = copy.deepcopy(ranker).train()
    optimiser = Optimiser(copied, training, len(in_memory))
    _step(copied, optimiser, in_memory[0])
    files = []
    memory = []
    for _ in range(TURNS):
        read = shuffled_batches(data, "train", training.batch_size, training.seed, 0, ahead=prefetch)
        for held in in_memory:
            started = time.perf_counter()
            _step(copied, optimiser, next(read))
            between = time.perf_counter()
            _step(copied, optimiser, held)
            files.append(between - started)
            memory.append(time.perf_counter() - between)
    # Medians, because single steps are interrupted by other processes.
    rows = len(in_memory[0]["request_time"])
    per_s = {"files": rows / float(np.median(files)), "memory": rows / float(np.median(memory))}
    return {
        "rows_per_s_files": per_s["files"],
        "rows_per_s_memory": per_s["memory"],
        "ratio": per_s["files"] / per_s["memory"],
        "steps": len(files),
    }


def _step(ranker: MultiTaskModel, optimiser: Optimiser, batch: Batch) -> None:
    loss = torch.stack(list(ranker.losses(batch).values())).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step(0)
