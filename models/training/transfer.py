"""Learns a new task with, or from, a model that was trained on other tasks: DUPN's four ways.

Ni et al., KDD 2018 (arXiv 1805.10727), section 5.4: retrain a single-task model, retrain all tasks with the new one,
transfer the representation and train a shallow network on it, or fine-tune the whole network.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.data.encoding.encoding import Encoding
from models.data.encoding.vocabulary import Vocabulary
from models.network.model import MultiTaskModel
from models.recipe import Recipe, RecipeError
from models.recipe.sections.selection import selection_of
from models.training.run import RunError, open_run
from models.training.updates.optimisation import REPRESENTATION

TABLE = "inputs.table.weight"
SOURCE = ("training", "transfer", "from")


def narrowed(recipe: Recipe) -> Recipe:
    """Return the recipe with the tasks that its transfer trains: only the new one, or all. Raises RecipeError."""
    transfer = recipe.training.transfer
    if transfer is None:
        return recipe
    names = [getattr(task, "name", None) for task in recipe.tasks]
    if transfer.task not in names:
        raise RecipeError(
            f"training.transfer.task: no task has the name '{transfer.task}'; "
            f"named: {', '.join(n for n in names if n) or 'none'}",
            ("training", "transfer", "task"),
        )
    if transfer.mode == "retrain_all":
        return recipe
    alone = recipe.model_dump(mode="json")
    alone["tasks"] = [alone["tasks"][names.index(transfer.task)]]
    alone["extra_evaluations"] = [e for e in alone["extra_evaluations"] if e["score"] == transfer.task]
    training = alone["training"]
    training["select_on"] = [n for n in training["select_on"] if selection_of(n).output == transfer.task]
    training["weighting"] = {"type": "static"}  # one task has nothing to be weighed against
    for section, key in (
        (training, "loss_weights"),
        (training, "list_losses"),
        (alone["calibration"] or {}, "negative_sampling"),
        (alone["data"], "task_weights"),
    ):
        if key in section:
            section[key] = {n: value for n, value in section[key].items() if n == transfer.task}
    if "gains" in training:
        labels = recipe.tasks[names.index(transfer.task)].labels
        training["gains"] = {label: gain for label, gain in training["gains"].items() if label in labels}
    if recipe.position and transfer.task in recipe.position.heads:
        alone["position"]["head"] = transfer.task
    else:
        alone["position"] = None
    return Recipe.model_validate(alone)


def start_from(recipe: Recipe, ranker: MultiTaskModel, encoding: Encoding) -> None:
    """Load the weights that the transfer starts from into the ranker, and freeze those it must keep. Raises
    RecipeError.
    """
    transfer = recipe.training.transfer
    if transfer is None or transfer.source is None:
        return
    try:
        run = open_run(Path(transfer.source))
    except RunError as error:
        raise RecipeError(f"training.transfer.from: {error}", SOURCE) from None
    # Weights fit only if features and encoders are equal.
    if run.encoding.schema != encoding.schema:
        raise RecipeError(
            f"training.transfer.from: {transfer.source} was trained on other features; "
            "copy the section 'features' of its recipe",
            SOURCE,
        )
    if (
        run.ranker.composition["encoders"] != ranker.composition["encoders"]
        or run.recipe.model.encoders != recipe.model.encoders
        or run.recipe.model.sequences != recipe.model.sequences
    ):
        raise RecipeError(
            f"training.transfer.from: {transfer.source} has other encoders; copy model.encoders of its recipe, "
            "and model.sequences",
            SOURCE,
        )
    # A transferred representation is frozen below the new network.
    only_representation = transfer.mode == "representation_transfer"
    _take_weights(ranker, run.ranker.state_dict(), run.encoding.vocabulary, encoding.vocabulary, only_representation)
    if only_representation:
        for name, parameter in ranker.named_parameters():
            parameter.requires_grad_(not name.startswith(REPRESENTATION))


def _take_weights(
    ranker: MultiTaskModel,
    source_weights: Mapping[str, Tensor],
    old: Vocabulary,
    new: Vocabulary,
    only_representation: bool,
) -> None:
    """Copy every weight of the same name and shape; embedding rows are matched by key, because ids may have other rows
    now.
    """
    weights = ranker.state_dict()  # the ranker's own tensors
    for name, value in source_weights.items():
        if name == TABLE:
            _take_rows(weights[name], value, old, new)
        elif (
            name in weights
            and weights[name].shape == value.shape
            and (name.startswith(REPRESENTATION) or not only_representation)
        ):
            weights[name].copy_(value)
        elif name.startswith(REPRESENTATION):
            raise RecipeError(
                f"training.transfer.from: '{name}' has the shape {tuple(value.shape)} there; "
                "copy the section 'model' of its recipe",
                SOURCE,
            )


def _take_rows(table: Tensor, source_table: Tensor, old: Vocabulary, new: Vocabulary) -> None:
    if table.shape[1] != source_table.shape[1]:
        raise RecipeError(
            f"training.transfer.from: its model.embedding.dim is {source_table.shape[1]}, here it is {table.shape[1]}",
            SOURCE,
        )
    _, of_new, of_old = np.intersect1d(new.keys, old.keys, assume_unique=True, return_indices=True)
    table[torch.from_numpy(new.rows[of_new]).long()] = source_table[torch.from_numpy(old.rows[of_old]).long()]
    for name, row in new.unknown_rows.items():
        table[row] = source_table[old.unknown_rows[name]]
    if (dict(old.buckets), old.hashes) != (dict(new.buckets), new.hashes):
        key = "hashes" if dict(old.buckets) == dict(new.buckets) else "hash_buckets"
        raise RecipeError(
            f"training.transfer.from: it has other model.embedding.{key}; copy the section 'model' of its recipe",
            SOURCE,
        )
    # The buckets follow the unknown rows, in one order in both tables.
    buckets = slice(1 + len(new.unknown_rows), 1 + len(new.unknown_rows) + sum(new.buckets.values()))
    table[buckets] = source_table[buckets]
