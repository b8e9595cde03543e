"""Compares a GPU with the processor: losses and gradients of every recipe, then a whole training and its speed.

Run it on a machine with a GPU after a change of the models or of training; it needs torch with CUDA and what `train`
needs. `python -m tools.gpu_check --help` has an example.
"""

import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import torch
from torch import Tensor

from models.data.batches import Batch, shuffled_batches
from models.data.cache import Data, open_data
from models.data.tables import existing
from models.network.build import build_model
from models.network.model import MultiTaskModel
from models.prepare.sample import sample_tables
from models.prepare.small import small_tables
from models.recipe import Recipe, load_recipe
from models.train import train
from models.training.device import CPU, chosen_device, on_device
from models.training.outcome import METRICS_FILE
from models.training.updates.optimisation import Optimiser
from models.training.updates.sparse_gradients import values_of
from models.training.weighting import build_weighting

ROOT = Path(__file__).parents[1]
# The data whose tables are in the repository; a recipe's other settings stay.
SAMPLES = {"kuairand": 2_000_000, "census": 400_000}
TOLERANCE = 1e-3


@click.command(epilog="\b\nexample:\n  python -m tools.gpu_check --device cuda --out gpu.json")
@click.option("--device", default="cuda", show_default=True, metavar="NAME", help="What to compare with the processor.")
@click.option("--recipe", default="kuairand-mmoe-din", show_default=True, metavar="NAME", help="Recipe to train whole.")
@click.option("--batch-size", type=int, default=8192, show_default=True, metavar="N", help="Batch of the training.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write the figures as JSON.")
def check(device: str, recipe: str, batch_size: int, out: Path | None) -> None:
    """Compare losses and gradients of every recipe, and train one on both."""
    chosen = chosen_device(device)
    with tempfile.TemporaryDirectory() as folder:
        differences = compared_recipes(Path(folder), chosen)
        training = trained_on_both(recipe, Path(folder), device, batch_size)
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu"
    if out is not None:
        out.write_text(json.dumps({"device": name, "recipes": differences, "training": training}, indent=1))
    worst = max(differences.values())
    print(f"largest relative difference: {worst:.2g} (limit {TOLERANCE:g})")
    sys.exit(0 if worst <= TOLERANCE else 1)


def compared_recipes(folder: Path, device: torch.device) -> dict[str, float]:
    """The largest relative difference of a loss or of a gradient's norm after one step, by recipe."""
    for name, size in SAMPLES.items():
        sample_tables(ROOT / "sample" / name, folder / name, size, seed=1)
        small_tables(folder / name, folder / f"{name}-small")
    differences = {}
    for path in sorted((ROOT / "models" / "recipes").rglob("*.yaml")):
        recipe = load_recipe(path) if path.parent.name != "base" else None
        name = "" if recipe is None else Path(recipe.data.dir).name
        if recipe is None or name.removesuffix("-small") not in SAMPLES:
            continue
        if recipe.data.items is not None and existing(str(folder / name), recipe.data.items) is None:
            continue  # of a column that is made first
        data = open_data(load_recipe(path, (f"data.dir={folder / name}",)), folder / "cache")
        differences[path.stem] = compared(data.recipe, data, device)
        print(f"{path.stem:40} {differences[path.stem]:.2g}", flush=True)
    return differences


def compared(recipe: Recipe, data: Data, device: torch.device) -> float:
    """The largest relative difference between two devices after one step on the same batch."""
    batch = next(shuffled_batches(data, "train", 512, 1, 0))
    here = numbers_after_a_step(recipe, data, batch, CPU)
    there = numbers_after_a_step(recipe, data, next(on_device([batch], device)), device)
    return max(abs(here[name] - there[name]) / max(1e-3, abs(here[name])) for name in here)


def numbers_after_a_step(recipe: Recipe, data: Data, batch: Batch, device: torch.device) -> dict[str, float]:
    """The losses, the norm of each gradient, and the losses after an update, on one device, without dropout."""
    torch.manual_seed(1)
    model = build_model(recipe, data.encoding, data.cross_values).to(device)
    _without_chance(model)
    weighting = build_weighting(model, recipe.training)
    optimiser = Optimiser(model, recipe.training, 10)
    losses = model.losses(batch)
    optimiser.zero_grad()
    weighting.backward(losses, batch, 0)
    numbers = {f"loss of {name}": float(loss.detach()) for name, loss in losses.items()}
    numbers |= {f"gradient of {name}": _norm(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    optimiser.step(0)
    return numbers | {f"next loss of {name}": float(loss.detach()) for name, loss in model.losses(batch).items()}


def _without_chance(model: MultiTaskModel) -> None:
    """Turn dropout and hidden ids off, and leave the rest in training mode: devices draw other random numbers."""
    model.train()
    for module in model.modules():
        for name in ("p", "unknown_rate", "expert_dropout", "position_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _norm(gradient: Tensor) -> float:
    return float(values_of(gradient).norm())


def trained_on_both(name: str, folder: Path, device: str, batch_size: int) -> dict[str, Any]:
    """Train one recipe on both devices; return AUC by output and rows/s."""
    settings = (
        f"data.dir={ROOT / 'sample' / 'kuairand'}",
        "training.epochs=1",
        f"training.batch_size={batch_size}",
        "training.evaluations_per_epoch=1",
    )
    recipe = load_recipe(ROOT / "models" / "recipes" / f"{name}.yaml", settings)
    measured = {}
    for where in ("cpu", device):
        out = folder / f"run-{where.replace(':', '-')}"
        started = perf_counter()
        metrics = train(recipe, out, cache=folder / "cache", reading_steps=0, quiet=True, device=where)
        assert (out / METRICS_FILE).is_file()
        outputs = metrics["parts"]["test"]["outputs"]
        measured[where] = {
            "seconds": perf_counter() - started,
            "rows_per_s": metrics["speed"]["rows_per_s"],
            "auc": {output: of_output.get("auc") for output, of_output in outputs.items()},
        }
        print(where, json.dumps(measured[where]), flush=True)
    return measured


if __name__ == "__main__":
    check()
