"""Owns the measurement of what reading from disk costs the training loop."""

import copy
import time
from collections.abc import Iterable
from itertools import islice

import torch

from models.data.batches import Batch, shuffled_batches
from models.data.cache import Data
from models.ranker import Ranker
from models.training.optimisation import Optimiser

REPEATS = 5


def reading_speed(ranker: Ranker, data: Data, steps: int, prefetch: int) -> dict[str, float]:
    """Rows/s of the training loop over the memory-mapped files and over the same batches held ready as tensors, and their ratio.

    Both loops train a copy of the ranker; they take turns and each counts by its fastest turn, so that a busy machine hits both alike.
    """
    training = data.recipe.training
    in_memory = list(islice(shuffled_batches(data, "train", training.batch_size, training.seed, 0), steps))
    rows = sum(len(b["request_time"]) for b in in_memory)
    files, memory = 0.0, 0.0
    copied = copy.deepcopy(ranker).train()
    optimiser = Optimiser(copied, training, len(in_memory))
    _train(copied, optimiser, in_memory[:2])
    for _ in range(REPEATS):
        read = shuffled_batches(data, "train", training.batch_size, training.seed, 0, ahead=prefetch)
        files = max(files, rows / _train(copied, optimiser, islice(read, steps)))
        memory = max(memory, rows / _train(copied, optimiser, in_memory))
    return {"rows_per_s_files": files, "rows_per_s_memory": memory, "ratio": files / memory, "steps": len(in_memory)}


def _train(ranker: Ranker, optimiser: Optimiser, batches: Iterable[Batch]) -> float:
    """Train on the batches; gives the seconds that it took."""
    started = time.perf_counter()
    for step, batch in enumerate(batches):
        loss = torch.stack(list(ranker.losses(batch).values())).sum()
        optimiser.adam.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step(step)
    return time.perf_counter() - started
