"""Trains a recipe into a run folder: the loop, calibration, metrics and the report."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

from models.data.cache import DEFAULT_CACHE, Data, open_data
from models.recipe import Recipe, RecipeError, load_recipe
from models.recipe.without_effect import refuse_options_without_effect
from models.reports.report import write_report
from models.training.calibrating import fit_calibration
from models.training.checkpoint import RESUME_FILE, WEIGHTS_FILE, load_whole, save_weights, write_json
from models.training.diagnostics.ablation import ablation as measure_ablation
from models.training.diagnostics.baselines import baselines as fit_baselines
from models.training.loop import CHECKPOINT_STEPS
from models.training.members import learn_members
from models.training.outcome import HISTORY_FILE, MEMBERS_FOLDER, METRICS_FILE, RECIPE_FILE, summary
from models.training.processes.ranks import (
    ALONE,
    LostProcessError,
    ProcessesError,
    check_processes,
    device_of_process,
    joined,
    ranks_of_environment,
)
from models.training.step import NonFiniteLossError
from models.training.transfer import narrowed
from models.training.warm_start import open_warm_start

__all__ = ["LostProcessError", "NonFiniteLossError", "ProcessesError", "train"]


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
    start: Path | None = None,
    device: str = "cpu",
    together: bool = False,
) -> dict[str, Any]:
    """Train a recipe and write the run into `out`; return the content of metrics.json.

    `baselines`: also fit simple models for comparison; `ablation`: also measure the test part without each group of
    features. `start`: the folder of a finished run, whose weights and optimiser's state this run continues. `resume`
    trains nothing in a finished run, whose metrics are returned. `device`: cpu, cuda, cuda:N or auto; the metrics are
    computed on the processor. `together`: train with the other processes that torchrun started, if it did; all but the
    first return an empty dict. Raises RecipeError and ProcessesError before training starts, NonFiniteLossError and
    LostProcessError while training.
    """
    refuse_options_without_effect(recipe)
    recipe = narrowed(recipe)
    ranks = ranks_of_environment() if together else ALONE
    check_processes(recipe, ranks.count)
    chosen = device_of_process(device, ranks)
    warm = None if start is None else open_warm_start(start, recipe, out)
    with joined(ranks, chosen):
        data = ranks.first_on_host(lambda: open_data(recipe, cache, warm.encoding if warm else None))
        if resume:
            metrics = _finished(recipe, data, out)
            if metrics is not None:
                return metrics if ranks.writes else {}
            _refuse_other_run(recipe, data, out)
        trained = learn_members(
            recipe,
            data,
            out,
            resume=resume,
            start=warm,
            checkpoint_steps=checkpoint_steps,
            prefetch=prefetch,
            quiet=quiet,
            device=chosen,
            ranks=ranks,
        )
    if not ranks.writes:
        return {}
    best = trained.model
    progress = trained.progress
    # The run consists of the best weights, calibrated on the validation part.
    calibration = fit_calibration(best, data) if best.calibration else None
    if calibration:
        save_weights(best.state_dict(), data.cross_values, progress.best_step, out / WEIGHTS_FILE)
    # This is the only place that reads the test part.
    metrics = summary(best, data, progress, trained.epoch_steps, reading_steps, prefetch, calibration)
    if warm is not None:
        metrics["started_from"] = warm.described(data.encoding)
    if trained.members:
        metrics["members"] = trained.members
    if baselines:
        metrics["baselines"] = fit_baselines(best, data, recipe.training.seed)
    if ablation:
        metrics["ablation"] = measure_ablation(best, data, recipe.training.seed)
    # metrics.json is written last: a folder that has it is a finished run.
    history = {"losses": progress.losses, "evaluations": progress.evaluations, "epoch_steps": trained.epoch_steps}
    if trained.histories:
        history["members"] = trained.histories
    write_json(history, out / HISTORY_FILE)
    write_report(out, recipe, metrics, history)
    write_json(metrics, out / METRICS_FILE)
    (out / RESUME_FILE).unlink(missing_ok=True)
    shutil.rmtree(out / MEMBERS_FOLDER, ignore_errors=True)
    return metrics


def _finished(recipe: Recipe, data: Data, out: Path) -> dict[str, Any] | None:
    """Return metrics.json if `out` has a finished run; None if not.

    Raises RecipeError if that run has another recipe or other data.
    """
    path = out / METRICS_FILE
    if not path.is_file():
        return None
    metrics: dict[str, Any] = json.loads(path.read_text())
    _compare("finished run", recipe, data, out, metrics["data"]["hash"])
    return metrics


def _refuse_other_run(recipe: Recipe, data: Data, out: Path) -> None:
    """Raise RecipeError if `out` has checkpoints of another recipe or other data. No file of the run is changed."""
    checkpoints = [out / RESUME_FILE, *sorted((out / MEMBERS_FOLDER).glob(f"*/{RESUME_FILE}"))]
    checkpoint = next((path for path in checkpoints if path.is_file()), None)
    if checkpoint is not None:
        _compare("run", recipe, data, out, load_whole(checkpoint)["identity"]["data"])


def _compare(run: str, recipe: Recipe, data: Data, out: Path, data_hash: str) -> None:
    """Raise RecipeError if the run in `out`, made with data of this hash, has another recipe or other data."""
    same_recipe = load_recipe(out / RECIPE_FILE).model_dump(mode="json") == recipe.model_dump(mode="json")
    for name, same in (("recipe", same_recipe), ("data", data_hash == data.described["hash"])):
        if not same:
            raise RecipeError(
                f"--resume: the {run} in {out} was made with another {name}; "
                "start afresh without --resume, or give another --out"
            )


if __name__ == "__main__":  # `python -m models.train` is `funnelrank train`
    sys.argv.insert(1, "train")
    runpy.run_module("funnelrank", run_name="__main__")
