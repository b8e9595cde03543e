"""The training loop: batches, losses, weighting, optimiser, validation, and checkpoints to resume from."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from models.data.batches import Batch, shuffled_batches, steps_per_epoch
from models.data.cache import Data
from models.network.build import build_model
from models.network.model import MultiTaskModel
from models.recipe import Recipe
from models.training.checkpoint import OPTIMISER_FILE, WEIGHTS_FILE, save_optimisers, save_weights, write_json
from models.training.evaluation import evaluate, gate_health, gate_utilisation
from models.training.outcome import HISTORY_FILE, prepare_folder
from models.training.selection import finite, refuse_lists_without_order, selected_outputs, selection_score
from models.training.session import Progress, load_session, save_session
from models.training.transfer import start_from
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.updates.sparse_gradients import values_of
from models.training.warm_start import MemberStart, continue_from
from models.training.weighting import Weighting, build_weighting

CHECKPOINT_STEPS = 200
TRACE_POINTS = 200
GATE_BATCHES = 2
STATISTICS_BATCHES = 50


class NonFiniteLossError(RuntimeError):
    """A task's loss or gradient is not finite; the last good weights stay in the run folder."""


@dataclass(frozen=True)
class TrainedWeights:
    """The result of the loop: the averaged model at the end. `out` contains the best weights."""

    average: Average
    progress: Progress
    epoch_steps: int


@dataclass(frozen=True)
class _Loop:
    """The state that every training step reads and changes. A resumed run must have the same `identity`."""

    data: Data
    out: Path
    identity: dict[str, Any]
    model: MultiTaskModel
    average: Average
    optimiser: Optimiser
    weighting: Weighting
    progress: Progress


def learn(
    recipe: Recipe,
    data: Data,
    out: Path,
    *,
    resume: bool = False,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    prefetch: int = 0,
    quiet: bool = False,
    watch: Callable[[Progress, float], None] | None = None,
    start: MemberStart | None = None,
) -> TrainedWeights:
    """Train on the train part, validate on the validation part, never read the test part; write the best weights to
    `out`.

    With `start` the weights and the optimiser's state are those of an earlier run. After each evaluation `watch` gets
    the progress and the share of all steps done; if it raises, training ends. Raises RecipeError before training
    starts, NonFiniteLossError while training.
    """
    training = recipe.training
    epoch_steps = steps_per_epoch(len(data.parts["train"]), training.batch_size)
    total_steps = training.epochs * epoch_steps
    loop = _start(recipe, data, out, total_steps, resume, start)
    progress = loop.progress
    evaluate_at = {
        math.ceil(epoch_steps * (k + 1) / training.evaluations_per_epoch) for k in range(training.evaluations_per_epoch)
    }
    trace_every = max(1, total_steps // TRACE_POINTS)
    bar = _bar(total_steps, progress.step, quiet)
    loop.model.train()
    while progress.step < total_steps and progress.without_gain < training.patience:
        epoch, first_step = divmod(progress.step, epoch_steps)
        clock = time.perf_counter()
        for batch in shuffled_batches(data, "train", training.batch_size, training.seed, epoch, first_step, prefetch):
            losses = _step(loop, batch, epoch)
            # The clock measures reading and training, without evaluation and checkpoints.
            progress.seconds += time.perf_counter() - clock
            progress.step += 1
            progress.add(losses)
            if progress.step % trace_every == 0:
                progress.trace(loop.weighting.logged())
            bar.update()
            bar.set_postfix({"epoch": epoch + 1} | {n: f"{loss:.4f}" for n, loss in losses.items()}, refresh=False)
            # Evaluations select the weights; checkpoints let a killed run continue.
            in_epoch = progress.step - epoch * epoch_steps
            if in_epoch in evaluate_at:
                _validate(loop, epoch, bar)
                if watch is not None:
                    watch(progress, progress.step / total_steps)
            if in_epoch in evaluate_at or progress.step % checkpoint_steps == 0:
                _save(loop)
            if progress.without_gain >= training.patience:
                break
            clock = time.perf_counter()
    bar.close()
    return TrainedWeights(loop.average, progress, epoch_steps)


def _start(recipe: Recipe, data: Data, out: Path, total_steps: int, resume: bool, start: MemberStart | None) -> _Loop:
    """Return the state before the first step, or that of the run to resume."""
    training = recipe.training
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(training.seed)
    model = build_model(recipe, data.encoding, data.cross_values)
    # Both raise before training starts.
    selected_outputs(model, data)
    refuse_lists_without_order(model, data)
    start_from(recipe, model, data.encoding)
    optimiser = Optimiser(model, training, total_steps)
    if start is not None:
        continue_from(start, recipe, model, optimiser)
    average = Average(model, training.averaging, lazy=training.embedding_updates != "dense")
    weighting = build_weighting(model, training)
    identity = {"recipe": recipe.model_dump_json(), "data": data.described["hash"], "threads": torch.get_num_threads()}
    # A checkpoint of another run is refused before the files of the folder change.
    progress = load_session(out, identity, model, average, optimiser, weighting) if resume else Progress()
    prepare_folder(out, recipe, data, keep=resume)
    return _Loop(data, out, identity, model, average, optimiser, weighting, progress)


def _bar(total: int, initial: int, quiet: bool) -> "tqdm[Any]":
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(total=total, initial=initial, unit="batch", disable=quiet, dynamic_ncols=True, mininterval=interval)


def _step(loop: _Loop, batch: Batch, epoch: int) -> dict[str, float]:
    """Train on one batch: gradients, weights, their average; return the losses. Raises NonFiniteLossError."""
    losses = loop.model.losses(batch)
    loop.optimiser.zero_grad()
    loop.weighting.backward(losses, batch, epoch)
    plain = {name: float(loss.detach()) for name, loss in losses.items()}
    touched = loop.optimiser.touched_rows()
    loop.average.prepare(touched)
    if not math.isfinite(sum(plain.values())) or not loop.optimiser.step(loop.progress.step):
        _stop_for(loop, batch, plain)
    loop.average.update(loop.progress.step, touched)
    return plain


def _save(loop: _Loop) -> None:
    save_session(loop.out, loop.identity, loop.progress, loop.model, loop.average, loop.optimiser, loop.weighting)


def _validate(loop: _Loop, epoch: int, bar: "tqdm[Any]") -> None:
    """Evaluate the averaged weights on the validation part; keep them if they are the best so far."""
    data = loop.data
    progress = loop.progress
    training = data.recipe.training
    first = partial(shuffled_batches, data, "train", training.batch_size, training.seed, 0)
    model = loop.average.synchronised(lambda: islice(first(), STATISTICS_BATCHES))
    measured = evaluate(model, data, "validation")["outputs"]
    entry = {
        "epoch": epoch,
        "score": finite(selection_score(measured, selected_outputs(model, data))),
        "validation": measured,
        "gates": gate_utilisation(model, data, "validation", GATE_BATCHES),
        "gate_health": gate_health(model, data, "validation", GATE_BATCHES),
    }
    best = progress.evaluated(entry)
    if best:
        save_weights(model.state_dict(), data.cross_values, progress.step, loop.out / WEIGHTS_FILE)
        save_optimisers([loop.optimiser.state()], loop.out / OPTIMISER_FILE)
    if bar.disable:
        return
    shown = "  ".join(f"{name} {m['auc']:.4f}" for name, m in measured.items() if m.get("auc") is not None)
    remark = "  (best so far)" if best else ""
    bar.write(f"step {progress.step}, epoch {epoch + 1}: validation AUC {shown}{remark}")


def _stop_for(loop: _Loop, batch: Batch, losses: Mapping[str, float]) -> None:
    """Name the task whose loss or gradient is not finite, save the last good weights, and raise NonFiniteLossError."""
    progress = loop.progress
    weights = loop.out / WEIGHTS_FILE
    bad = [name for name, loss in losses.items() if not math.isfinite(loss)] or _with_bad_gradient(loop.model, batch)
    which = f"the best ones, of step {progress.best_step}"
    if progress.best_score is None:
        save_weights(loop.average.synchronised().state_dict(), loop.data.cross_values, progress.step, weights)
        which = f"those before step {progress.step + 1}"
    write_json({"losses": progress.losses, "evaluations": progress.evaluations}, loop.out / HISTORY_FILE)
    raise NonFiniteLossError(
        f"step {progress.step + 1}: the loss of {', '.join(bad)} is not finite or has no finite gradient; {weights} "
        f"keeps the last good weights ({which}). A lower training.learning_rate or a training.gradient_clip often "
        "helps."
    )


def _with_bad_gradient(model: MultiTaskModel, batch: Batch) -> list[str]:
    """Return the tasks whose loss has a gradient that is not finite."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    bad = []
    for name, loss in model.losses(batch).items():
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True
        )
        if not all(bool(torch.isfinite(values_of(g)).all()) for g in gradients if g is not None):
            bad.append(name)
    return bad or ["the sum of all tasks"]
