"""Tests that every option of a recipe has a recipe that sets it, and every choice one that takes it.

An option that nobody uses is not maintained. The exemptions name the reason.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from models.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[3] / "models" / "recipes"
OF_OWN_TABLES = "the tables of the recipes have the default names and values; docs/your-own-data.md and its test set it"
OF_A_LOG = "`funnelrank join` writes it into the recipes of its tables; tests/loop trains them"
OF_COUNTERS = (
    "kuairand-counters has the kinds that its tables can feed; tests/features and tests/models/counting set it"
)
OF_TIMES = "no data set of ours has a time as a feature; tests/models/deriving trains one"
OF_URLS = "no data set of ours has a URL; tests/features/schemas/test_text_parts.py sets it"
OF_VECTORS = (
    "only the vectors of word2vec are in a recipe, as they are; tests/models/data/test_vectors_served.py sets it"
)
OF_A_RUN = "it needs the folder of a finished run; tests/models/training/test_transfer.py sets it"
OF_DELAYS = "the tables of the recipes have no times of conversions; the simulator `delay` trains every correction"
IS_DEFAULT = "it is the default of the option, which is mostly left out"
OF_SAMPLED_DATA = "no data set of ours was sampled; tests/models/layers/test_calibration.py sets it"
OF_CLASSES = "no data set of ours has a label of classes; tests/test_whole_path.py trains and ranks one"
EXEMPT = {
    "DataSection": OF_OWN_TABLES,
    "Categorical": OF_OWN_TABLES,
    "MultiCategorical": OF_OWN_TABLES,
    "Numeric": OF_OWN_TABLES,
    "Vector.project": OF_VECTORS,
    "Vector.required": OF_VECTORS,
    "BehaviourSchema": OF_OWN_TABLES,
    "FeatureSchema": OF_OWN_TABLES,
    "RuleFeatures": OF_OWN_TABLES,
    "LogSection": OF_A_LOG,
    "LoggedLabel": OF_A_LOG,
    "SeenRule": OF_A_LOG,
    "Recipe.log": OF_A_LOG,
    "CountCounter": OF_COUNTERS,
    "RateCounter": OF_COUNTERS,
    "TimeSinceCounter": OF_COUNTERS,
    "DistinctCounter": OF_COUNTERS,
    "TimeSinceFeature": OF_TIMES,
    "UrlPart": OF_URLS,
    "TransferSection": OF_A_RUN,
    "DelayedFeedbackOptions": OF_DELAYS,
    "ElapsedWeightsOptions": OF_DELAYS,
    "FakeNegativesOptions": OF_DELAYS,
    "EsmmOptions.delay": OF_DELAYS,
    "Esm2Options.delay": OF_DELAYS,
    "Probability.type": IS_DEFAULT,
    "PairwiseOptions.weight": IS_DEFAULT,
    "JrcOptions.weight": IS_DEFAULT,
    "CalibrationSection.method=none": IS_DEFAULT,
    "CalibrationSection.negative_sampling": OF_SAMPLED_DATA,
    "ModelSection.trunk_groups": "recipes leave out no group but `behaviours`; tests/models/network sets the others",
    "MultiClass": OF_CLASSES,
}


def options() -> Iterator[str]:
    """Every option `Section.name`, and every choice `Section.name=value` of one with several."""
    waiting: list[type[BaseModel]] = [Recipe]
    seen: set[type[BaseModel]] = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            place = f"{model.__name__}.{name}"
            yield place
            choices = {choice for kind in (field.annotation, *field.metadata) for choice in literals(kind)}
            if len(choices) > 1:
                yield from (f"{place}={choice}" for choice in choices)
            waiting.extend(models_in(field.annotation))


def models_in(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from models_in(inner)


def literals(kind: Any) -> Iterator[object]:
    if get_origin(kind) is Literal:
        yield from get_args(kind)
        return
    for inner in get_args(kind):
        yield from literals(inner)


def set_in(value: Any) -> Iterator[str]:
    """The options that a recipe sets, and the choices that it takes or leaves at their default."""
    if isinstance(value, BaseModel):
        name = type(value).__name__
        yield from (f"{name}.{option}" for option in value.model_fields_set)
        for option in type(value).model_fields:
            inner = getattr(value, option)
            if isinstance(inner, str | int):
                yield f"{name}.{option}={inner}"
            elif isinstance(inner, (tuple, list)):
                yield from (f"{name}.{option}={each}" for each in inner if isinstance(each, str))
            yield from set_in(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from set_in(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from set_in(inner)


def is_exempt(option: str) -> bool:
    place = option.partition("=")[0]
    return bool({option, place, place.partition(".")[0]} & EXEMPT.keys())


@pytest.fixture(scope="module")
def used() -> set[str]:
    paths = [path for path in sorted(RECIPES.rglob("*.yaml")) if path.parent.name != "base"]
    return {option for path in paths for option in set_in(load_recipe(path))}


def test_every_option_has_a_recipe_that_sets_it(used: set[str]) -> None:
    assert sorted(option for option in options() if option not in used and not is_exempt(option)) == []


def test_every_exemption_is_needed(used: set[str]) -> None:
    unused = {option for option in options() if option not in used}
    for name in EXEMPT:
        assert any(name in (o, o.partition("=")[0], o.partition(".")[0]) for o in unused), name
