"""The section `tuning` of a recipe: which settings a search may change, within which bounds, and for how long."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from features.nearest import nearest
from models.errors import RecipeError
from models.options import Options

SECTIONS = ("features", "model", "training")
# Trials that differ in these settings cannot be compared, because they change the score of a trial or the model that it
# starts from.
# A search trains one network per trial, so the size of an ensemble would change nothing.
FIXED = (
    "training.seed",
    "training.ensemble",
    "training.select_on",
    "training.transfer",
    "training.evaluations_per_epoch",
)
Finite = Annotated[float, Field(allow_inf_nan=False)]


class SearchBounds(Options):
    """The values that a setting may take: a number from `low` to `high`, both included, or one of `choices`.

    The number is an integer if the setting is one. With `log`, the search is uniform in the logarithm; `low` must then
    be above 0.
    """

    low: Finite | None = None
    high: Finite | None = None
    log: bool = False
    choices: Annotated[tuple[Any, ...] | None, Field(min_length=1)] = None

    @model_validator(mode="after")
    def _one_kind(self) -> "SearchBounds":
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either choices, or low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"with log, low must be above 0, found {self.low:g}")
        return self


class TuningSection(Options):
    """`space`: bounds by the dotted name of a setting, as `training.learning_rate`; `seed`: the seed of the sampler.

    After `time_limit_minutes` of trials no further trial starts.
    """

    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    time_limit_minutes: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 1
    space: Annotated[dict[str, SearchBounds], Field(min_length=1)]


@dataclass(frozen=True)
class SearchedSetting:
    """A setting of a recipe: its type with all limits, and its present value (None if the recipe has none)."""

    kind: Any
    value: Any

    @property
    def whole(self) -> bool:
        """Whether the setting is an integer."""
        return int in _members(self.kind) and float not in _members(self.kind)

    def checked(self, value: object) -> Any:
        """Return the value in the form of the recipe. Raises ValueError that says what is wrong."""
        try:
            return TypeAdapter(self.kind).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{first['msg']}, found {first['input']!r}") from None


def _members(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(member for argument in get_args(kind) for member in _members(argument))
    return (kind,)


def settings_of(recipe: BaseModel) -> dict[str, SearchedSetting]:
    """Return every setting that a search may change, by dotted name; a section is listed before its own settings."""
    settings: dict[str, SearchedSetting] = {}
    for section in SECTIONS:
        settings |= _within(getattr(recipe, section), section)
    return {name: setting for name, setting in settings.items() if name not in FIXED}


def _within(section: BaseModel, prefix: str) -> dict[str, SearchedSetting]:
    """The settings of a section and of the sections inside it, by dotted name."""
    settings: dict[str, SearchedSetting] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        dotted = f"{prefix}.{name}"
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        settings[dotted] = SearchedSetting(kind, value)
        if isinstance(value, BaseModel):
            settings |= _within(value, dotted)
        if get_origin(field.annotation) is dict:
            kind = get_args(field.annotation)[1]
            settings |= {f"{dotted}.{key}": SearchedSetting(kind, element) for key, element in value.items()}
    return settings


def check_space(recipe: BaseModel, space: Mapping[str, SearchBounds]) -> None:
    """Raise RecipeError for a setting that the recipe does not have, or whose bounds it would never accept."""
    settings = settings_of(recipe)
    for name, bounds in space.items():
        if name in FIXED:
            raise _refused(name, f"'{name}' cannot be searched: trials that differ in it cannot be compared")
        if name not in settings:
            raise _refused(name, f"'{name}' is no setting of this recipe{nearest(name, settings)}")
        if inside := [other for other in space if other.startswith(f"{name}.")]:
            problem = f"'{inside[0]}' lies inside '{name}', which is searched as a whole; keep one of the two"
            raise _refused(inside[0], problem)
        _check_bounds(name, settings[name], bounds)


def _refused(name: str, problem: str) -> RecipeError:
    return RecipeError(f"tuning.space: {problem}", ("tuning", "space", name))


def _check_bounds(name: str, setting: SearchedSetting, bounds: SearchBounds) -> None:
    if bounds.choices is None and not {int, float} & set(_members(setting.kind)):
        raise _refused(name, f"'{name}' is no number; give choices in place of low and high")
    ends = [int(end) if end == int(end) else end for end in (bounds.low, bounds.high) if end is not None]
    for value in bounds.choices or ends:
        try:
            setting.checked(value)
        except ValueError as error:
            raise _refused(name, f"'{name}': {error}") from None
