"""Builds the untrained network of a recipe and refuses recipes whose parts do not fit together."""

from collections.abc import Collection, Iterator

import torch

from features.nearest import nearest
from models.catalogue import entry_of
from models.data.encoding.encoding import Encoding
from models.data.encoding.vocabulary import vocabulary_names
from models.errors import RecipeError
from models.kinds import PROBABILITY
from models.layers.position_bias import PositionTower
from models.network.ensemble import Ensemble
from models.network.model import MultiTaskModel
from models.recipe import Recipe
from models.recipe.sections.selection import selection_of
from models.structures.base import TaskStructure


def build_model(recipe: Recipe, encoding: Encoding, cross_values: int = 0) -> MultiTaskModel:
    """Build an untrained model for a recipe. `cross_values`: the number of distinct values that the position is crossed
    with.

    Raises RecipeError if tasks, heads and architecture do not fit together.
    """
    vocabularies = vocabulary_names(recipe.features)
    for name in recipe.model.embedding.hash_buckets:
        _check_name(name, vocabularies, "model.embedding.hash_buckets", "the vocabulary of no feature")
    for name in recipe.model.embedding.widths:
        _check_name(name, vocabularies, "model.embedding.widths", "the vocabulary of no feature")
    structures = build_structures(recipe)
    # The order of construction is the order of the random draws; changing it would change the weights of a seed.
    model = MultiTaskModel(recipe, encoding, structures, _position_tower(recipe, cross_values))
    if recipe.position:
        heads = [head for structure in structures if structure.width == 1 for head in structure.heads]
        for head in recipe.position.heads:
            _check_name(head, heads, "position.head", "not a head of one logit")
    if recipe.features.behaviour is not None and not model.reads_behaviours:
        problem = "no encoder reads the behaviours; name one, or remove features.behaviour"
        raise RecipeError(f"model.encoders: {problem}", ("model", "encoders"))
    if recipe.calibration:
        factors = [factor.name for factor in model.factors]
        for name in recipe.calibration.negative_sampling:
            _check_name(name, factors, "calibration.negative_sampling", "not a factor of a score")
    _check_outputs(recipe, model)
    trunk = recipe.model.trunk or entry_of(recipe.model.architecture).trunk
    if "trunk" in recipe.model.batch_norm and not trunk.takes_batch_norm:
        raise RecipeError(f"model.batch_norm: the trunk '{trunk.type}' has none", ("model", "batch_norm"), "trunk")
    return model


def build_ensemble(recipe: Recipe, encoding: Encoding, cross_values: int = 0) -> MultiTaskModel:
    """Build the model of a whole run: the network of `build_model`, or an ensemble of `training.ensemble` of them."""
    members = recipe.training.ensemble
    if members == 1:
        return build_model(recipe, encoding, cross_values)
    others = [build_model(recipe, encoding, cross_values) for _ in range(members - 1)]
    return Ensemble(recipe, encoding, build_structures(recipe), _position_tower(recipe, cross_values), others)


def members_together(members: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the weights of an ensemble by name, from those of its members in order."""
    first, *others = members
    return first | {f"others.{i}.{name}": value for i, one in enumerate(others) for name, value in one.items()}


def members_apart(weights: dict[str, torch.Tensor], members: int) -> list[dict[str, torch.Tensor]]:
    """Return the weights of each member in order, from those of an ensemble."""
    first = {name: value for name, value in weights.items() if not name.startswith("others.")}
    apart = [first]
    for i in range(members - 1):
        prefix = f"others.{i}."
        apart.append({name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)})
    return apart


def _position_tower(recipe: Recipe, cross_values: int) -> PositionTower | None:
    return PositionTower(recipe.position, cross_values) if recipe.position else None


def build_structures(recipe: Recipe) -> list[TaskStructure]:
    """Build the task structures of a recipe, in order. Raises RecipeError if they do not suit the architecture."""
    entry = entry_of(recipe.model.architecture)
    for i, task in enumerate(recipe.tasks):
        if task.type not in entry.tasks:
            problem = f"'{task.type}' does not go with architecture '{entry.name}'; it takes: {', '.join(entry.tasks)}"
            raise RecipeError(f"tasks: {problem}", ("tasks", i, "type"))
    structures = [task.build(recipe.features) for task in recipe.tasks]
    names = [name for structure in structures for name in _names(structure)]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"tasks: two of them have the output '{name}'; outputs are unique", ("tasks",), name)
    return structures


def _names(structure: TaskStructure) -> Iterator[str]:
    for output in structure.outputs:
        yield from output.score_names


def _check_outputs(recipe: Recipe, model: MultiTaskModel) -> None:
    """Check that every output named in the recipe exists, and that every weighted output has a loss."""
    training = recipe.training
    outputs = [output.name for output in model.outputs]
    trained = [output.name for output in model.outputs if output.trained]
    weighted = {
        "training.loss_weights": training.loss_weights,
        "training.weighting.decay": getattr(training.weighting, "decay", {}),
    }
    for section, names in weighted.items():
        for name in names:
            _check_name(name, outputs, section, "not an output")
            if name not in trained:
                problem = f"'{name}' has no loss of its own; those with one: {', '.join(trained)}"
                raise RecipeError(f"{section}: {problem}", tuple(section.split(".")), name)
    _check_list_losses(recipe, model, trained)
    _check_weights(recipe, model, trained)
    for entry in training.select_on:
        _check_name(selection_of(entry).output, outputs, "training.select_on", "not an output", whole=entry)
    for evaluation in recipe.extra_evaluations:
        _check_name(evaluation.score, model.score_names, "extra_evaluations", "not an output")


def _check_weights(recipe: Recipe, model: MultiTaskModel, trained: Collection[str]) -> None:
    """Check that the weights of an output belong to a trained one, and that its loss can have some."""
    for name in recipe.data.task_weights:
        _check_name(name, [output.name for output in model.outputs], "data.task_weights", "not an output")
        if name not in trained:
            problem = f"'{name}' has no loss of its own; those with one: {', '.join(trained)}"
            raise RecipeError(f"data.task_weights: {problem}", ("data", "task_weights"), name)
    for output in model.objective.outputs:
        refused = output.correction.refuses_weights if output.correction else ""
        if refused and recipe.training.negative_sampling < 1:
            problem = f"the loss of '{output.name}' {refused}, and takes no weights of kept negatives"
            raise RecipeError(f"training.negative_sampling: {problem}", ("training",), "negative_sampling")
        if refused and model.objective.weights.column_of(output.name) is not None:
            key = "task_weights" if output.name in recipe.data.task_weights else "weight"
            raise RecipeError(f"data.{key}: the loss of '{output.name}' {refused}, and takes none", ("data", key))


def _check_list_losses(recipe: Recipe, model: MultiTaskModel, trained: Collection[str]) -> None:
    """Check that every list loss belongs to a trained probability of a label."""
    section = "training.list_losses"
    kinds = {output.name: output.kind for output in model.outputs}
    corrections = {output.name: output.correction for output in model.outputs}
    for name in recipe.training.list_losses:
        _check_name(name, kinds, section, "not an output")
        if name not in trained:
            problem = f"'{name}' has no loss of its own; those with one: {', '.join(trained)}"
            raise RecipeError(f"{section}: {problem}", tuple(section.split(".")), name)
        correction = corrections[name]
        if correction is not None and correction.refuses_list_loss:
            problem = f"'{name}' {correction.refuses_list_loss}"
            raise RecipeError(f"{section}: {problem}", tuple(section.split(".")), name)
        if kinds[name] != PROBABILITY:
            problem = f"'{name}' is not the probability of a label of 0 or 1, so a list has no positives"
            raise RecipeError(f"{section}: {problem}", tuple(section.split(".")), name)


def _check_name(name: str, known: Collection[str], section: str, fault: str, whole: str | None = None) -> None:
    """Raise RecipeError unless the name is known. `whole`: the entry of the recipe that contains the name."""
    if name not in known:
        problem = f"'{name}' is {fault}{nearest(name, known)}"
        raise RecipeError(f"{section}: {problem}", tuple(section.split(".")), whole or name)
