"""The run folder: the files written before training, the summary in metrics.json, and its lines for the terminal."""

import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
import yaml

from features.files.writing import replacing, write_whole
from models.data.cache import Data
from models.kinds import PROBABILITY, reported_kind
from models.metrics.bootstrap import DRAWS
from models.network.model import MultiTaskModel
from models.recipe import Recipe
from models.training.checkpoint import OPTIMISER_FILE, RESUME_FILE, WEIGHTS_FILE, remove_unfinished
from models.training.diagnostics.features import feature_health
from models.training.diagnostics.histograms import training_histograms
from models.training.diagnostics.position import position_curve
from models.training.diagnostics.reading import reading_speed
from models.training.diagnostics.sampling import sampled
from models.training.diagnostics.warnings import loss_warnings, run_warnings
from models.training.evaluation import evaluate, gate_health, gate_utilisation
from models.training.selection import selected_outputs
from models.training.session import Progress

TRAIN_IMPRESSIONS = 20_000  # of the training part, drawn to be measured

RECIPE_FILE = "recipe.yaml"
ENCODING_FILE = "encoding.npz"
EARLIER_ENCODING_FILE = "earlier_encoding.npz"  # of the run that this one continues
KEPT_FILE = "kept_rows.npz"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.json"
REPORT_FILE = "report.html"
MEMBERS_FOLDER = "members"
_WRITTEN_BEFORE = (RECIPE_FILE, ENCODING_FILE, EARLIER_ENCODING_FILE, KEPT_FILE)
_WRITTEN_WHILE_TRAINING = (RESUME_FILE, WEIGHTS_FILE, OPTIMISER_FILE, METRICS_FILE, HISTORY_FILE, REPORT_FILE)


def prepare_folder(out: Path, recipe: Recipe, data: Data, keep: bool) -> None:
    """Write the files that exist before training. Without `keep`, remove those of an earlier run in the folder."""
    out.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out, (*_WRITTEN_BEFORE, *_WRITTEN_WHILE_TRAINING))
    if not keep:
        for name in (*_WRITTEN_WHILE_TRAINING, EARLIER_ENCODING_FILE):
            (out / name).unlink(missing_ok=True)
        # A member that is not trained again before this run is killed would be taken for one of this run.
        shutil.rmtree(out / MEMBERS_FOLDER, ignore_errors=True)
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(out / RECIPE_FILE, text.encode())
    data.encoding.save(out / ENCODING_FILE)
    if data.earlier is not None:
        data.earlier.save(out / EARLIER_ENCODING_FILE)
    with replacing(out / KEPT_FILE) as unfinished:
        shutil.copyfile(data.kept_rows, unfinished)


def summary(
    ranker: MultiTaskModel,
    data: Data,
    progress: Progress,
    epoch_steps: int,
    reading_steps: int,
    prefetch: int,
    calibration: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Build metrics.json: metrics per part and output, speed, data, versions, warnings.

    This function scores the test part, once.
    """
    recipe = data.recipe
    rows = len(data.parts["train"])
    trained = data.trained_count
    seed = recipe.training.seed
    # No intervals on the training part: its figures show how well the model fits, not its quality.
    train = evaluate(ranker, sampled(data, "train", TRAIN_IMPRESSIONS, seed), "train")
    validation = evaluate(ranker, data, "validation", DRAWS)
    test = evaluate(ranker, data, "test", DRAWS)
    # Gates are measured on the part where the weights were selected.
    gates = gate_utilisation(ranker, data, "validation")
    health = gate_health(ranker, data, "validation")
    epochs = progress.step / epoch_steps
    groups = ranker.parameter_groups()
    metrics: dict[str, Any] = {
        "name": recipe.name,
        "description": recipe.description,
        "architecture": recipe.model.architecture,
        "composition": ranker.composition,
        "seed": recipe.training.seed,
        "parameters": {group: sum(p.numel() for p in parameters) for group, parameters in groups.items()},
        "best": {"step": progress.best_step, "epoch": progress.best_step / epoch_steps, "score": progress.best_score},
        "selected_on": selected_outputs(ranker, data),
        "epochs": epochs,
        "stopped_early": progress.without_gain >= recipe.training.patience,
        "parts": {
            "train": train | {"impressions": rows, "trained": trained, "sampled": train["impressions"]},
            "validation": validation,
            "test": test,
        },
        "features": feature_health(data, seed),
        "histograms": training_histograms(data, seed),
        "started_from": None,
        "baselines": None,
        "ablation": None,
        "calibration": calibration,
        "position": position_curve(ranker, data),
        "gates": gates,
        "gate_health": health,
        "speed": {
            "seconds_per_epoch": progress.seconds / epochs,
            "rows_per_s": trained * epochs / progress.seconds,
            "reading": reading_speed(ranker, data, reading_steps, prefetch) if reading_steps else None,
        },
        "data": dict(data.described),
        "warnings": [],
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyarrow": pyarrow.__version__,
        },
    }
    of_losses: list[str] = []
    if recipe.training.weighting.type != "gradnorm":  # which makes all gradients alike
        of_losses = [*loss_warnings(train["outputs"], recipe.training.loss_weights)]
    return metrics | {"warnings": [*run_warnings(metrics), *of_losses]}


def start_line(metrics: Mapping[str, Any]) -> str:
    """Say what the weights started from."""
    start = metrics.get("started_from")
    if not start:
        return "cold start: all weights were drawn at random"
    optimiser = "its optimiser's state" if start["optimiser"] else "no optimiser's state, which the run lacks,"
    checkpoint = f"checkpoint {start['checkpoint_sha256'][:12]}"
    return f"continued {start['run']} ({checkpoint}) with {optimiser} and {start['new_rows']:,} new embedding rows"


def summary_lines(metrics: dict[str, Any], out: Path) -> Iterator[str]:
    """The test metrics as lines for the terminal."""
    best = metrics["best"]
    yield start_line(metrics)
    train = metrics["parts"]["train"]
    if train["trained"] < train["impressions"]:
        chosen = "all with a positive label, and the share training.negative_sampling of the others"
        yield f"trained on {train['trained']:,} of {train['impressions']:,} impressions: {chosen}"
    test = metrics["parts"]["test"]
    yield f"best weights of step {best['step']} (epoch {best['epoch']:.2f}); test part, {test['impressions']:,} rows:"
    for name, m in test["outputs"].items():
        yield f"  {name:<28} {reported_kind(m).summary(m)}"
    for m in test["extra"]:
        yield f"  {m['score'] + ' for ' + m['label']:<28} {PROBABILITY.summary(m)}"
    if members := metrics.get("members"):
        scores = [member["score"] for member in members]
        single = f"alone {min(scores):.4f} to {max(scores):.4f}"
        yield f"{len(members)} members: {best['score']:.4f} on validation together, {single}"
    speed = metrics["speed"]
    yield f"{speed['seconds_per_epoch']:.1f} s per epoch, {speed['rows_per_s']:,.0f} rows/s"
    if speed["reading"]:
        yield f"reading: {speed['reading']['ratio']:.3f} of the rows/s of the same loop over tensors in memory"
    for warning in metrics["warnings"]:
        yield f"warning: {warning}"
    yield f"report: {out / REPORT_FILE}"
