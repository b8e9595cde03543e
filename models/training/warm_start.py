"""Continues a finished run on new days: its weights, its optimiser's state, and its vocabulary with the new keys."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.data.encoding.encoding import Encoding
from models.network.build import members_apart
from models.network.model import MultiTaskModel
from models.recipe import Recipe, RecipeError
from models.training.checkpoint import OPTIMISER_FILE, WEIGHTS_FILE, load_optimisers
from models.training.run import RunError, open_run
from models.training.updates.optimisation import POSITION, Optimiser

TABLE = "inputs.table.weight"
RULES = ("optimiser", "embedding_updates")  # keys that decide what the optimiser's state is
NETWORK_KEYS = ("encoders", "sequences", "domain")  # keys that decide what weights mean, beside their shapes
CALIBRATION = "calibration."  # fitted anew after training
OTHERS = "take the recipe of that run with new days, or start afresh without --from"


@dataclass(frozen=True)
class MemberStart:
    """The weights of one network by name, and its optimiser's state; None for a run that has not kept it."""

    weights: dict[str, Tensor]
    optimiser: Mapping[str, Any] | None


@dataclass(frozen=True)
class WarmStart:
    """The run that a training continues. `encoding`: that of the run; `checkpoint_sha256`: of its weights' file."""

    folder: Path
    name: str
    encoding: Encoding
    checkpoint_sha256: str
    step: int
    members: list[MemberStart]

    def described(self, grown: Encoding) -> dict[str, Any]:
        """Describe the start for metrics.json and the manifest; `grown` is the encoding of the new run."""
        return {
            "run": str(self.folder),
            "name": self.name,
            "checkpoint_sha256": self.checkpoint_sha256,
            "step": self.step,
            "optimiser": all(member.optimiser is not None for member in self.members),
            "new_rows": grown.vocabulary.n_rows - self.encoding.vocabulary.n_rows,
        }


def open_warm_start(folder: Path, recipe: Recipe, out: Path) -> WarmStart:
    """Open the run to continue. Raises RecipeError if it is not finished, or if the recipe does not continue it."""
    if folder.resolve() == out.resolve():
        raise RecipeError(f"--from: {folder} is the folder of the new run as well; give another --out")
    if recipe.training.transfer is not None:
        raise RecipeError("training.transfer: a transfer names its own run; remove it, or --from", ("training",))
    try:
        run = open_run(folder)
    except RunError as error:
        raise RecipeError(f"--from: {error}") from None
    if run.encoding.schema != recipe.features:
        raise RecipeError(f"--from: {folder} was trained on other features; {OTHERS}")
    if run.recipe.model.embedding.hash_buckets != recipe.model.embedding.hash_buckets:
        raise RecipeError(f"--from: {folder} has other model.embedding.hash_buckets; {OTHERS}")
    if run.recipe.model.embedding.hashes != recipe.model.embedding.hashes:
        raise RecipeError(f"--from: {folder} has other model.embedding.hashes; {OTHERS}")
    # Encoders and sequences of other actions, or of other features, may have weights of the same shapes.
    for key in NETWORK_KEYS:
        if getattr(run.recipe.model, key) != getattr(recipe.model, key):
            raise RecipeError(f"--from: {folder} has other model.{key}; {OTHERS}")
    size = run.recipe.training.ensemble
    if size != recipe.training.ensemble:
        raise RecipeError(f"--from: {folder} has training.ensemble {size}, here it is {recipe.training.ensemble}")
    # A run of an earlier version has no file of its optimiser.
    optimisers: list[Mapping[str, Any] | None] = [None] * size
    same_rules = all(getattr(run.recipe.training, key) == getattr(recipe.training, key) for key in RULES)
    if (folder / OPTIMISER_FILE).is_file() and same_rules:
        optimisers = [*load_optimisers(folder / OPTIMISER_FILE)]
    weights = members_apart(run.ranker.state_dict(), size)
    members = [MemberStart(of_one, optimiser) for of_one, optimiser in zip(weights, optimisers, strict=True)]
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return WarmStart(folder, run.recipe.name, run.encoding, digest, run.provenance["best"]["step"], members)


@torch.no_grad()
def continue_from(start: MemberStart, recipe: Recipe, model: MultiTaskModel, optimiser: Optimiser) -> None:
    """Load the weights of an earlier run into the model and its optimiser's state into the optimiser.

    The vocabulary has grown behind the earlier rows, so the first rows of the table are the earlier ones; new rows keep
    their random start. A position tower that is crossed with a column starts anew, because its cells belong to the
    values of the earlier days. Raises RecipeError if the networks differ.
    """
    anew = (CALIBRATION, POSITION) if recipe.position and recipe.position.cross else (CALIBRATION,)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(anew)}
    earlier = {name: value for name, value in start.weights.items() if not name.startswith(anew)}
    for name in sorted(weights.keys() ^ earlier.keys()):
        where = "here" if name in weights else "there"
        raise RecipeError(f"--from: only the network {where} has '{name}'; {OTHERS}")
    for name, value in earlier.items():
        weight = weights[name]
        if name == TABLE:
            weight = weight[: len(value)]
        if weight.shape != value.shape:
            shapes = f"the shape {tuple(value.shape)} there and {tuple(weight.shape)} here"
            raise RecipeError(f"--from: '{name}' has {shapes}; {OTHERS}")
        weight.copy_(value)
    if start.optimiser is not None:
        optimiser.load(_fitted(start.optimiser, anew, weights[TABLE]))


def _fitted(state: Mapping[str, Any], anew: tuple[str, ...], table: Tensor) -> dict[str, Any]:
    """The optimiser's state without the parameters that start anew, and with zeros for the new rows of the table."""
    by_name = {name: dict(tensors) for name, tensors in state["by_name"].items() if not name.startswith(anew)}
    for key, value in by_name.get(TABLE, {}).items():
        if value.dim():
            grown = value.new_zeros(len(table), *value.shape[1:])
            grown[: len(value)] = value
            by_name[TABLE][key] = grown
    return {**state, "by_name": by_name}
