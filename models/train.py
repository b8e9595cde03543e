"""Owns `python -m models.train`: the training loop, in plain sight, and what a run leaves behind."""

import math
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from models.data.batches import shuffled_batches, steps_per_epoch
from models.data.cache import DEFAULT_CACHE, Data, open_data
from models.network.build import build_model
from models.network.model import MultiTaskModel
from models.recipe import Recipe
from models.reports.report import write_report
from models.training.calibrating import fit_calibration
from models.training.checkpoint import RESUME_FILE, WEIGHTS_FILE, load_whole, save_weights, write_json
from models.training.diagnostics.ablation import ablation as measure_ablation
from models.training.diagnostics.baselines import baselines as fit_baselines
from models.training.evaluation import evaluate, gate_health, gate_utilisation
from models.training.optimisation import Average, Optimiser
from models.training.outcome import HISTORY_FILE, METRICS_FILE, prepare_folder, summary
from models.training.selection import finite, selected_outputs, selection_score
from models.training.session import Progress, load_session, save_session
from models.training.transfer import narrowed, start_from
from models.training.weighting import build_weighting

CHECKPOINT_STEPS = 200
TRACE_POINTS = 200
GATE_BATCHES = 2
STATISTICS_BATCHES = 50


class NonFiniteLossError(RuntimeError):
    """A task's loss or gradient that is no number; the last good weights are kept."""


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    cache: Path = DEFAULT_CACHE,
    reading_steps: int = 20,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    prefetch: int = 0,
    quiet: bool = False,
    baselines: bool = False,
    ablation: bool = False,
) -> dict[str, Any]:
    """Train a recipe and write the run into `out`; gives what metrics.json holds.

    `baselines`: plain models are fitted too, to stand beside it; `ablation`: each group of features is taken away once.

    Raises RecipeError before anything is trained, NonFiniteLossError while training.
    """
    recipe = narrowed(recipe)
    data = open_data(recipe, cache)
    learnt = learn(recipe, data, out, resume=resume, checkpoint_steps=checkpoint_steps, prefetch=prefetch, quiet=quiet)
    best = learnt.average.ranker
    progress = learnt.progress
    epoch_steps = learnt.epoch_steps
    if progress.best_score is None:
        raise NonFiniteLossError(
            f"no evaluation gave a finite score on the validation part for {', '.join(selected_outputs(best, data))}: "
            "a selected output has no impression of its space there, or scores that are not finite"
        )
    best.load_state_dict(load_whole(out / WEIGHTS_FILE)["weights"])
    calibration = fit_calibration(best, data) if best.calibration else None
    if calibration:
        save_weights(best.state_dict(), data.cross_values, progress.best_step, out / WEIGHTS_FILE)
    metrics = summary(best, data, progress, epoch_steps, reading_steps, prefetch) | {"calibration": calibration}
    if baselines:
        metrics["baselines"] = fit_baselines(best, data, recipe.training.seed)
    if ablation:
        metrics["ablation"] = measure_ablation(best, data, recipe.training.seed)
    history = {"losses": progress.losses, "evaluations": progress.evaluations, "epoch_steps": epoch_steps}
    write_json(history, out / HISTORY_FILE)
    write_report(out, recipe, metrics, history)
    write_json(metrics, out / METRICS_FILE)
    (out / RESUME_FILE).unlink(missing_ok=True)
    return metrics


@dataclass(frozen=True)
class Learnt:
    """What the loop ends with: the averaged ranker, not yet put back to its best weights, which `out` holds."""

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
) -> Learnt:
    """The training loop: reads the train and validation parts, never the test part, and leaves the best weights in `out`.

    After each evaluation `watch` is told the progress and the share of all steps done; what it raises ends the training.
    """
    training = recipe.training
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(training.seed)
    ranker = build_model(recipe, data.encoding, data.cross_values)
    selected_outputs(ranker, data)  # raises before anything is trained
    start_from(recipe, ranker, data.encoding)
    epoch_steps = steps_per_epoch(len(data.parts["train"]), training.batch_size)
    total_steps = training.epochs * epoch_steps
    optimiser = Optimiser(ranker, training, total_steps)
    average = Average(ranker, training.averaging)
    weighting = build_weighting(ranker, training)
    identity = {"recipe": recipe.model_dump_json(), "data": data.described["hash"], "threads": torch.get_num_threads()}
    prepare_folder(out, recipe, data, keep=resume)
    progress = load_session(out, identity, ranker, average, optimiser, weighting) if resume else Progress()
    evaluate_at = {
        math.ceil(epoch_steps * (k + 1) / training.evaluations_per_epoch) for k in range(training.evaluations_per_epoch)
    }
    trace_every = max(1, total_steps // TRACE_POINTS)

    bar = tqdm(
        total=total_steps,
        initial=progress.step,
        unit="batch",
        disable=quiet,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 15,
    )
    ranker.train()
    while progress.step < total_steps and progress.without_gain < training.patience:
        epoch, first_step = divmod(progress.step, epoch_steps)
        clock = time.perf_counter()
        for batch in shuffled_batches(data, "train", training.batch_size, training.seed, epoch, first_step, prefetch):
            losses = ranker.losses(batch)
            optimiser.rule.zero_grad(set_to_none=True)
            weighting.backward(losses, batch, epoch)
            plain = {name: float(loss.detach()) for name, loss in losses.items()}
            if not math.isfinite(sum(plain.values())) or not optimiser.step(progress.step):
                stop_for(ranker, batch, plain, progress, average, data, out)
            average.update(progress.step)

            progress.step += 1
            progress.seconds += (
                time.perf_counter() - clock
            )  # reading and training; evaluation and checkpoints are left out
            progress.add(plain)
            bar.update()
            bar.set_postfix({"epoch": epoch + 1} | {name: f"{loss:.4f}" for name, loss in plain.items()}, refresh=False)
            if progress.step % trace_every == 0:
                progress.trace(weighting.logged())
            in_epoch = progress.step - epoch * epoch_steps
            if in_epoch in evaluate_at:
                validate(average, data, progress, epoch, out, bar)
                if watch is not None:
                    watch(progress, progress.step / total_steps)
            if in_epoch in evaluate_at or progress.step % checkpoint_steps == 0:
                save_session(out, identity, progress, ranker, average, optimiser, weighting)
            if progress.without_gain >= training.patience:
                break
            clock = time.perf_counter()
    bar.close()
    return Learnt(average, progress, epoch_steps)


def validate(average: Average, data: Data, progress: Progress, epoch: int, out: Path, bar: "tqdm[Any]") -> None:
    """Evaluate the averaged weights on the validation part; keep them if they are the best so far."""
    training = data.recipe.training
    first = partial(shuffled_batches, data, "train", training.batch_size, training.seed, 0)
    ranker = average.synchronised(lambda: islice(first(), STATISTICS_BATCHES))
    measured = evaluate(ranker, data, "validation")
    score = finite(selection_score(measured["outputs"], selected_outputs(ranker, data)))
    gates, health = (measure(ranker, data, "validation", GATE_BATCHES) for measure in (gate_utilisation, gate_health))
    entry = {"epoch": epoch, "score": score, "validation": measured["outputs"], "gates": gates, "gate_health": health}
    best = progress.evaluated(entry)
    if best:
        save_weights(ranker.state_dict(), data.cross_values, progress.step, out / WEIGHTS_FILE)
    shown = "  ".join(f"{name} {m['auc']:.4f}" for name, m in measured["outputs"].items() if m.get("auc") is not None)
    if bar.disable:
        return
    bar.write(f"step {progress.step}, epoch {epoch + 1}: validation AUC {shown}{'  (best so far)' if best else ''}")


def stop_for(
    ranker: MultiTaskModel,
    batch: dict[str, Tensor],
    losses: dict[str, float],
    progress: Progress,
    average: Average,
    data: Data,
    out: Path,
) -> None:
    """Name the task whose loss or gradient is not finite, keep the last good weights, and raise NonFiniteLossError."""
    bad = [name for name, loss in losses.items() if not math.isfinite(loss)] or _with_bad_gradient(ranker, batch)
    kept = f"the best ones, of step {progress.best_step}"
    if progress.best_score is None:
        save_weights(average.synchronised().state_dict(), data.cross_values, progress.step, out / WEIGHTS_FILE)
        kept = f"those before step {progress.step + 1}"
    history = {"losses": progress.losses, "evaluations": progress.evaluations}
    write_json(history, out / HISTORY_FILE)
    raise NonFiniteLossError(
        f"step {progress.step + 1}: the loss of {', '.join(bad)} is not finite or has no finite gradient; {out / WEIGHTS_FILE} keeps the last "
        f"good weights ({kept}). A lower training.learning_rate or a training.gradient_clip often helps."
    )


def _with_bad_gradient(ranker: MultiTaskModel, batch: dict[str, Tensor]) -> list[str]:
    parameters = [p for p in ranker.parameters() if p.requires_grad]
    bad = []
    for name, loss in ranker.losses(batch).items():
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True
        )
        if not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
            bad.append(name)
    return bad or ["the sum of all tasks"]


if __name__ == "__main__":  # `python -m models.train` is `funnelrank train`
    sys.argv.insert(1, "train")
    runpy.run_module("funnelrank", run_name="__main__")
