"""The training loop: batches, losses, weighting, optimiser, validation, and checkpoints to resume from."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from models.data.batches import shuffled_batches, steps_per_epoch
from models.data.cache import Data
from models.data.delays import refuse_impossible_delays
from models.data.shards import Shard
from models.network.build import build_model
from models.network.model import MultiTaskModel
from models.recipe import Recipe, RecipeError
from models.training.checkpoint import (
    OPTIMISER_FILE,
    WEIGHTS_FILE,
    CheckpointSpacing,
    save_optimisers,
    save_weights,
)
from models.training.device import CPU, device_of, on_device
from models.training.evaluation import evaluate, gate_health, gate_utilisation
from models.training.outcome import prepare_folder
from models.training.processes.meeting import say_prepared
from models.training.processes.ranks import ALONE, Ranks
from models.training.selection import finite, refuse_lists_without_order, selected_outputs, selection_score
from models.training.session import Progress, load_session, save_session
from models.training.statistics import fit_statistics, fit_weights
from models.training.step import TrainingState, train_step
from models.training.transfer import start_from
from models.training.updates.averaging import Average
from models.training.updates.bfloat16 import tables_to
from models.training.updates.optimisation import Optimiser
from models.training.updates.own_rows import OwnRows
from models.training.warm_start import MemberStart, continue_from
from models.training.weighting import build_weighting

CHECKPOINT_STEPS = 200
TRACE_POINTS = 200
GATE_BATCHES = 2
STATISTICS_BATCHES = 50


@dataclass(frozen=True)
class TrainedWeights:
    """The result of the loop: the averaged model at the end. `out` contains the best weights."""

    average: Average
    progress: Progress
    epoch_steps: int


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
    device: torch.device = CPU,
    ranks: Ranks = ALONE,
) -> TrainedWeights:
    """Train on the train part, validate on the validation part, never read the test part; write the best weights to
    `out`.

    With `start` the weights and the optimiser's state are those of an earlier run. After each evaluation `watch` gets
    the progress and the share of all steps done; if it raises, training ends. With several `ranks` each process
    computes its part of every batch; the first one evaluates and writes. Raises RecipeError before training
    starts, NonFiniteLossError and LostProcessError while training.
    """
    training = recipe.training
    epoch_steps = steps_per_epoch(data.trained_count, training.batch_size)
    total_steps = training.epochs * epoch_steps
    shard = _shard(data, ranks)
    loop = _start(recipe, data, out, total_steps, resume, start, device, ranks)
    progress = loop.progress
    evaluate_at = {
        math.ceil(epoch_steps * (k + 1) / training.evaluations_per_epoch) for k in range(training.evaluations_per_epoch)
    }
    trace_every = max(1, total_steps // TRACE_POINTS)
    bar = _bar(total_steps, progress.step, quiet or not ranks.writes)
    loop.model.train()
    spacing = CheckpointSpacing()
    while progress.step < total_steps and progress.without_gain < training.patience:
        epoch, first_step = divmod(progress.step, epoch_steps)
        clock = time.perf_counter()
        batches = shuffled_batches(
            data, "train", training.batch_size, training.seed, epoch, first_step, prefetch, shard
        )
        for batch in on_device(batches, device):
            losses = train_step(loop, batch, epoch)
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
            due = in_epoch in evaluate_at
            if not due and progress.step % checkpoint_steps == 0:
                due = ranks.from_first(spacing.allows())
            if due:
                with spacing.saving():
                    _save(loop)
            if progress.without_gain >= training.patience:
                break
            clock = time.perf_counter()
    bar.close()
    # Everything after training computes on the processor, as the exported graph does.
    loop.average.ranker.to(CPU)
    return TrainedWeights(loop.average, progress, epoch_steps)


def _start(
    recipe: Recipe,
    data: Data,
    out: Path,
    total_steps: int,
    resume: bool,
    start: MemberStart | None,
    device: torch.device,
    ranks: Ranks,
) -> TrainingState:
    """Return the state before the first step, or that of the run to resume."""
    training = recipe.training
    # On a GPU some sums have no algorithm that repeats their bits.
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.manual_seed(training.seed)
    model = build_model(recipe, data.encoding, data.cross_values)
    # All three raise before training starts.
    selected_outputs(model, data)
    refuse_lists_without_order(model, data)
    refuse_impossible_delays(data)
    fit_statistics(model, data)
    fit_weights(model, data)
    # The weights of a transfer are read on the processor, so they are taken over there.
    start_from(recipe, model, data.encoding)
    model.to(device)
    if training.embedding_dtype == "bfloat16":
        tables_to(model, torch.bfloat16)
    own = OwnRows(ranks.number, ranks.count)
    optimiser = Optimiser(model, training, total_steps, own)
    if start is not None:
        continue_from(start, recipe, model, optimiser)
    average = Average(model, training.averaging, training.embedding_updates != "dense", own, ranks.whole)
    weighting = build_weighting(model, training)
    identity = {"recipe": recipe.model_dump_json(), "data": data.described["hash"], "threads": torch.get_num_threads()}
    # A checkpoint of another run is refused before the files of the folder change.
    progress = load_session(out, identity, model, average, optimiser, weighting) if resume else Progress()
    ranks.agree("recipe, data or number of threads", identity)
    ranks.agree("checkpoint", progress.step)
    if ranks.writes:
        prepare_folder(out, recipe, data, keep=resume)
        say_prepared()
    return TrainingState(data, out, identity, model, average, optimiser, weighting, progress, ranks, seed=training.seed)


def _shard(data: Data, ranks: Ranks) -> Shard | None:
    """The rows that this process reads; None if it reads all. Raises RecipeError."""
    rows = len(data.parts["train"])
    if ranks.count > rows:
        raise RecipeError(f"{ranks.count} processes, but {rows:,} impressions in the training part")
    return Shard.of(rows, ranks.number, ranks.count) if ranks.count > 1 else None


def _bar(total: int, initial: int, quiet: bool) -> "tqdm[Any]":
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(total=total, initial=initial, unit="batch", disable=quiet, dynamic_ncols=True, mininterval=interval)


def _save(loop: TrainingState) -> None:
    parts = (loop.progress, loop.model, loop.average, loop.optimiser, loop.weighting)
    save_session(loop.out, loop.identity, *parts, loop.ranks)


def _validate(loop: TrainingState, epoch: int, bar: "tqdm[Any]") -> None:
    """Evaluate the averaged weights on the validation part; keep them if they are the best so far."""
    progress = loop.progress
    model = _averaged(loop)
    entry = _measured(loop, model, epoch) if loop.ranks.writes else {}
    # Every process knows the score, so that all of them stop at the same step.
    entry["score"] = loop.ranks.from_first(entry.get("score"))
    best = progress.evaluated(entry)
    of_optimiser = loop.optimiser.state(loop.ranks.whole) if best else {}
    if best and loop.ranks.writes:
        save_weights(model.state_dict(), loop.data.cross_values, progress.step, loop.out / WEIGHTS_FILE)
        save_optimisers([of_optimiser], loop.out / OPTIMISER_FILE)
    if bar.disable:
        return
    measured = entry["validation"]
    shown = "  ".join(f"{name} {m['auc']:.4f}" for name, m in measured.items() if m.get("auc") is not None)
    remark = "  (best so far)" if best else ""
    bar.write(f"step {progress.step}, epoch {epoch + 1}: validation AUC {shown}{remark}")


def _averaged(loop: TrainingState) -> MultiTaskModel:
    """The averaged model with statistics of its own; all processes call it at once, and the first one gets it."""
    training = loop.data.recipe.training
    first = partial(shuffled_batches, loop.data, "train", training.batch_size, training.seed, 0)
    device = device_of(loop.model)
    return loop.average.synchronised(lambda: on_device(islice(first(), STATISTICS_BATCHES), device))


def _measured(loop: TrainingState, model: MultiTaskModel, epoch: int) -> dict[str, Any]:
    """Measure the averaged weights on the validation part."""
    data = loop.data
    measured = evaluate(model, data, "validation")["outputs"]
    return {
        "epoch": epoch,
        "score": finite(selection_score(measured, selected_outputs(model, data))),
        "validation": measured,
        "gates": gate_utilisation(model, data, "validation", GATE_BATCHES),
        "gate_health": gate_health(model, data, "validation", GATE_BATCHES),
    }
