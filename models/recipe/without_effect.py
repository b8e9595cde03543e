"""Finds options of a recipe that change nothing in their combination, so that nobody trusts them to do something.

Training refuses them. A finished run that has one is still read.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from features import FeatureSchema
from features.schemas.schema import Numeric
from models.catalogue import entry_of
from models.encoders.base import EncoderOptions
from models.encoders.din import DinOptions
from models.encoders.sim import SimOptions
from models.errors import Fault, RecipeError
from models.layers.calibration import CalibrationSection
from models.recipe.recipe import Recipe
from models.recipe.sections.training import TrainingSection
from models.trunks.home import HomeOptions

_COMPARING = ("gradnorm", "pcgrad")  # weightings of the losses that compare several


def refuse_options_without_effect(recipe: Recipe) -> None:
    """Raise RecipeError with a fault for each option that has no effect in this recipe."""
    faults = [*_of_model(recipe), *_of_encoders(recipe), *_of_numbers(recipe), *_of_training(recipe), *_of_rest(recipe)]
    if faults:
        raise RecipeError.of(faults)


def _fault(path: str, problem: str, name: str | None = None) -> Fault:
    return Fault(f"{path}: {problem}", tuple(path.split(".")), name)


def _changed(section: Any, name: str) -> bool:
    """Whether an option has another value than its default. A run's recipe gives all options."""
    return bool(getattr(section, name) != type(section).model_fields[name].default)


def _twice(path: str, values: Sequence[str]) -> Iterator[Fault]:
    for value in dict.fromkeys(values):
        if values.count(value) > 1:
            yield _fault(path, f"'{value}' stands there twice; name it once", value)


def _of_model(recipe: Recipe) -> Iterator[Fault]:
    model = recipe.model
    yield from _twice("model.batch_norm", model.batch_norm)
    yield from _twice("model.outputs", model.outputs)
    yield from _twice("model.trunk_groups", model.trunk_groups or ())
    # Parts that the architecture lacks.
    heads = [head for task in recipe.tasks for head in task.build(recipe.features).heads]
    trunk = model.trunk or entry_of(model.architecture).trunk
    if model.batch_norm and not heads:
        problem = "no task has a tower on the trunk; remove it"
        yield _fault("model.batch_norm", problem)
    elif "towers" in model.batch_norm and not model.tower_hidden:
        problem = "the towers have no hidden layer to normalise (tower_hidden: []); remove 'towers', or give them one"
        yield _fault("model.batch_norm", problem, "towers")
    if model.domain is not None and not trunk.needs_domain:
        yield _fault("model.domain", f"the trunk '{trunk.type}' reads no domain; remove it, or take the trunk 'star'")
    if isinstance(trunk, HomeOptions) and not all(trunk.groups):
        yield _fault("model.trunk.groups", "a group has no head; remove the empty list")


def _of_encoders(recipe: Recipe) -> Iterator[Fault]:
    model = recipe.model
    of_user = model.user_bias.encoders if model.user_bias else ()
    preset = entry_of(model.architecture).encoder
    sections: dict[str, Sequence[EncoderOptions]] = {
        "model.encoders": model.encoders or (),
        "model.user_bias.encoders": of_user,
    }
    sections |= {f"model.sequences.{name}.encoders": sequence.encoders for name, sequence in model.sequences.items()}
    # Without behaviours there is nothing to encode. Pooling is what a recipe gets that says nothing.
    if recipe.features.behaviour is None:
        if model.encoders is None and preset.type != "pooling":
            problem = f"'{model.architecture}' is its encoder '{preset.type}', which reads features.behaviour; add it"
            yield _fault("model.architecture", problem, model.architecture)
        for path, encoders in sections.items():
            for encoder in encoders:
                problem = f"'{encoder.type}' reads features.behaviour, which the recipe lacks; add it, or remove this"
                yield _fault(path, problem, encoder.type)
        return
    for path, encoders in sections.items():
        for encoder in encoders:
            yield from (_fault(path, problem, name) for name, problem in _of_encoder(encoder, recipe.features))


def _of_encoder(encoder: EncoderOptions, schema: FeatureSchema) -> Iterator[tuple[str, str]]:
    """Yield the name of an option and the problem."""
    if isinstance(encoder, SimOptions) and not encoder.recent and _changed(encoder, "hidden"):
        yield "hidden", "'hidden' of 'sim' reads the recent behaviours, and recent is 0; remove it, or raise recent"
    if isinstance(encoder, DinOptions) and encoder.context and not schema.context:
        yield "context", "'context' of 'din' reads features.context, which the recipe lacks; remove it"


def _of_numbers(recipe: Recipe) -> Iterator[Fault]:
    """Bins without a number that uses them, and an encoding of bins that no number has."""
    section = recipe.model.embedding.numerics
    path = "model.embedding.numerics"
    schema = recipe.features
    groups = (schema.all_features, schema.counter_numbers, schema.derived_features)
    numbers = [feature for group in groups for feature in group if isinstance(feature, Numeric)]
    # The comparison within a request has no bins of its own.
    takes_default = [number for number in numbers if not number.bins or number.within_request]
    if section.bins and not takes_default:
        problem = "every number has bins of its own" if numbers else "the recipe has no number"
        yield _fault(f"{path}.bins", f"{problem}; remove it")
    if section.encoding != "bin" and not section.bins and not any(number.bins for number in numbers):
        yield _fault(f"{path}.encoding", f"'{section.encoding}' reads bins, which no number has; set bins")


def _of_training(recipe: Recipe) -> Iterator[Fault]:
    training: TrainingSection = recipe.training
    if training.schedule == "constant" and _changed(training, "final_rate"):
        yield _fault("training.final_rate", "belongs to schedule 'cosine', and the schedule is constant; remove it")
    for name in ("position_learning_rate", "position_weight_decay"):
        if recipe.position is None and _changed(training, name):
            yield _fault(f"training.{name}", "belongs to the position tower, and the recipe has no position; remove it")
    outputs = [output for task in recipe.tasks for output in task.build(recipe.features).outputs]
    if training.weighting.type in _COMPARING and sum(output.trained for output in outputs) == 1:
        problem = f"'{training.weighting.type}' compares several losses, and the recipe has one; remove it"
        yield _fault("training.weighting", problem, training.weighting.type)


def _of_rest(recipe: Recipe) -> Iterator[Fault]:
    calibration: CalibrationSection | None = recipe.calibration
    if calibration is not None and calibration.method != "isotonic" and _changed(calibration, "knots"):
        problem = f"belongs to method 'isotonic', and the method is '{calibration.method}'; remove it"
        yield _fault("calibration.knots", problem)
    if recipe.log is not None and recipe.log.seen.by != "up_to_last_click_plus":
        for name in ("k", "actions"):
            if _changed(recipe.log.seen, name):
                problem = f"belongs to by 'up_to_last_click_plus', and this is '{recipe.log.seen.by}'; remove it"
                yield _fault(f"log.seen.{name}", problem)
    # Counters are what reads these columns.
    counters = recipe.features.counters
    if recipe.data.counter_lag_s is not None and not counters:
        yield _fault("data.counter_lag_s", "belongs to features.counters, which the recipe lacks; remove it")
