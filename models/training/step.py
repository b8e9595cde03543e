"""One training step: losses, gradients, weights, their average; and what a run says if its numbers are not finite."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.data.batches import Batch
from models.data.cache import Data
from models.network.model import MultiTaskModel
from models.training.checkpoint import WEIGHTS_FILE, save_weights, write_json
from models.training.outcome import HISTORY_FILE
from models.training.processes.exchange import add_gradients, losses_of_part, seed_step
from models.training.processes.ranks import ALONE, Ranks
from models.training.processes.rows import share_own_rows
from models.training.session import Progress
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.updates.sparse_gradients import values_of
from models.training.weighting import Weighting


class NonFiniteLossError(RuntimeError):
    """A task's loss or gradient is not finite; the last good weights stay in the run folder."""


@dataclass(frozen=True)
class TrainingState:
    """The state that every training step reads and changes. A resumed run must have the same `identity`.

    `seed` is that of the network, which in an ensemble is another one for each member.
    """

    data: Data
    out: Path
    identity: dict[str, Any]
    model: MultiTaskModel
    average: Average
    optimiser: Optimiser
    weighting: Weighting
    progress: Progress
    ranks: Ranks = ALONE
    seed: int = field(kw_only=True)


def train_step(state: TrainingState, batch: Batch, epoch: int) -> dict[str, float]:
    """Train on one batch: gradients, weights, their average; return the losses. Raises NonFiniteLossError.

    With several processes `batch` is this process's part of it; losses and gradients are those of the whole batch.
    """
    together = state.ranks.count > 1
    if together:
        seed_step(state.seed, state.progress.step, state.ranks)
    losses = losses_of_part(state.model, batch, state.ranks) if together else state.model.losses(batch)
    state.optimiser.zero_grad()
    state.weighting.backward(losses, batch, epoch)
    counts = add_gradients(state.model, state.optimiser, state.ranks) if together else None
    plain = {name: float(loss.detach()) for name, loss in losses.items()}
    touched = state.optimiser.touched_rows()
    before = state.average.before_step(touched)
    add = state.ranks.add if together else None
    if not math.isfinite(sum(plain.values())) or not state.optimiser.step(state.progress.step, add):
        _stop_for(state, batch, plain)
    if counts is not None:
        share_own_rows(state.optimiser, counts, state.ranks)
    state.average.update(state.progress.step, touched, before)
    return plain


def _stop_for(state: TrainingState, batch: Batch, losses: Mapping[str, float]) -> None:
    """Name the task whose loss or gradient is not finite, save the last good weights, and raise NonFiniteLossError."""
    progress = state.progress
    weights = state.out / WEIGHTS_FILE
    bad = [name for name, loss in losses.items() if not math.isfinite(loss)] or _with_bad_gradient(state.model, batch)
    source = f"the best ones, of step {progress.best_step}"
    averaged = state.average.synchronised() if progress.best_score is None else None
    if not state.ranks.writes:
        state.ranks.wait_for_first()
        raise NonFiniteLossError(f"step {progress.step + 1}: a loss is not finite; process 0 says which")
    if averaged is not None:
        save_weights(averaged.state_dict(), state.data.cross_values, progress.step, weights)
        source = f"those before step {progress.step + 1}"
    write_json({"losses": progress.losses, "evaluations": progress.evaluations}, state.out / HISTORY_FILE)
    state.ranks.wait_for_first()
    raise NonFiniteLossError(
        f"step {progress.step + 1}: the loss of {', '.join(bad)} is not finite or has no finite gradient; {weights} "
        f"keeps the last good weights ({source}). A lower training.learning_rate or a training.gradient_clip often "
        "helps."
    )


def _with_bad_gradient(model: MultiTaskModel, batch: Batch) -> list[str]:
    """Return the tasks whose loss has a gradient that is not finite."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not len(batch["request_time"]):
        return ["the sum of all tasks"]
    bad = []
    for name, loss in model.losses(batch).items():
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True
        )
        if not all(bool(torch.isfinite(values_of(g)).all()) for g in gradients if g is not None):
            bad.append(name)
    return bad or ["the sum of all tasks"]
