"""Defines what operators write about fusion: profiles, the profile of a scene, experiments.

weighted_sum:      score = sum_t  w_t * s_t
weighted_product:  score = prod_t s_t ^ w_t, taken in log space; a score below 1e-38 counts as 1e-38
formula:           an expression over task scores, the item's numerics and the profile's own `weights`
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from features.files.strict_yaml import YamlError, read_yaml
from features.model_types import refuse_misread_truths
from features.nearest import nearest
from service.documents import MAX_REVISION
from service.errors import DocumentError, first_fault
from service.fusion.expression import ExpressionError, parse

DEFAULT = "default"
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Weights = Annotated[dict[str, Number], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
MAX_PROFILES = 200


class FusionError(DocumentError):
    """A fusion document that cannot be used, or a profile that does not fit a model. `field` is the place in the
    document.
    """

    code = "fusion_mismatch"

    def __init__(self, message: str, field: str = "profiles") -> None:
        super().__init__(message, field)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightBounds(_Strict):
    """The lowest and highest value that a request may give a weight."""

    min: Number
    max: Number

    @model_validator(mode="after")
    def _check(self) -> "WeightBounds":
        if self.min > self.max:
            raise ValueError("min is above max")
        return self


class Profile(_Strict):
    """A fusion profile: says how the ranking score is computed from the task scores.

    `weights` are named by task or, for a formula, by names of its own. `missing` gives the value of a numeric feature
    that an item lacks; the default is 0. `bounds` lists the weights that a request may override, where overrides are
    allowed, with their limits; without bounds, a request may override every weight.
    """

    kind: Literal["weighted_sum", "weighted_product", "formula"]
    weights: dict[str, Number] = {}
    formula: Annotated[str | None, Field(max_length=1000)] = None
    missing: dict[str, Number] = {}
    bounds: dict[str, WeightBounds] = {}

    @model_validator(mode="after")
    def _check(self) -> "Profile":
        if self.kind != "formula":
            if not self.weights:
                raise ValueError(f"weights: a {self.kind} needs at least 1")
            if self.formula is not None or self.missing:
                raise ValueError(f"formula and missing are for the kind 'formula', this is a {self.kind}")
            return self
        if self.formula is None:
            raise ValueError("formula: an expression is needed, as 'pctr ** 0.6 * pctcvr ** 1.2'")
        try:
            parse(self.formula)
        except ExpressionError as error:
            raise ValueError(f"formula: {error}") from None
        return self


class Arm(_Strict):
    """One side of an experiment: a profile for `percent` of the users."""

    name: Name
    profile: str
    percent: Annotated[float, Field(gt=0, le=100)]


class Experiment(_Strict):
    """An experiment: profiles compared on the requests of a scene, or on those without a scene.

    A stable hash with `salt` (default: the experiment's name) assigns users to the arms; users beyond the arms'
    percentages get the scene's own profile.
    """

    scene: str | None = None
    salt: Annotated[str, Field(max_length=100)] = ""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, max_length=20)]


class FusionProfiles(_Strict):
    """Profiles by name, and the profile of each scene. A request without a scene uses `default`."""

    revision: Annotated[int, Field(ge=0, le=MAX_REVISION)] = 1
    profiles: Annotated[dict[Name, Profile], Field(max_length=MAX_PROFILES)]
    scenes: Annotated[dict[str, str], Field(max_length=MAX_PROFILES)] = {}
    experiments: Annotated[dict[Name, Experiment], Field(max_length=MAX_PROFILES)] = {}

    @model_validator(mode="after")
    def _check(self) -> "FusionProfiles":
        if DEFAULT not in self.profiles:
            raise ValueError(f"profiles: one named '{DEFAULT}' is needed, for requests without a scene")
        for scene, profile in self.scenes.items():
            if profile not in self.profiles:
                raise ValueError(f"scenes.{scene}: no profile '{profile}'{nearest(profile, self.profiles)}")
        self._check_experiments()
        return self

    def _check_experiments(self) -> None:
        names_by_scene: dict[str | None, str] = {}
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            scene = experiment.scene
            if scene is not None and scene not in self.scenes:
                raise ValueError(f"{where}.scene: no scene '{scene}'{nearest(scene, self.scenes)}")
            if scene in names_by_scene:
                raise ValueError(f"{where}.scene: experiment '{names_by_scene[scene]}' already covers these requests")
            names_by_scene[scene] = name
            if len({a.name for a in experiment.arms}) != len(experiment.arms):
                raise ValueError(f"{where}.arms: two have the same name")
            if sum(a.percent for a in experiment.arms) > 100.0001:
                raise ValueError(f"{where}.arms: they have more than 100 percent")
            for arm in experiment.arms:
                if arm.profile not in self.profiles:
                    raise ValueError(f"{where}.arms: no profile '{arm.profile}'{nearest(arm.profile, self.profiles)}")

    def unused(self) -> list[str]:
        """Return the profiles that no scene and no experiment names, so that no request uses them."""
        used = {DEFAULT, *self.scenes.values()}
        for experiment in self.experiments.values():
            used |= {arm.profile for arm in experiment.arms}
        return [name for name in self.profiles if name not in used]


def read_profiles(path: Path) -> FusionProfiles:
    """Read the profiles of a YAML file.

    Raises FusionError that names the file and the field; a repeated key is an error.
    """
    try:
        document = read_yaml(path)
        refuse_misread_truths(document, FusionProfiles)
        return FusionProfiles.model_validate(document.value)
    except OSError as error:
        raise FusionError(f"{path}: {error.strerror}") from None
    except YamlError as error:
        raise FusionError(str(error)) from None
    except ValidationError as error:
        raise FusionError(f"{path}: {first_fault(error, FusionProfiles)}") from None


def plain_profiles(kinds: Mapping[str, str]) -> FusionProfiles:
    """Return the default profile: the sum of all probabilities; if a model has none, the sum of all tasks.

    `kinds` are the kinds of a model's tasks by name.
    """
    tasks = [task for task, kind in kinds.items() if kind == "probability"] or list(kinds)
    plain = Profile(kind="weighted_sum", weights=dict.fromkeys(tasks, 1.0))
    return FusionProfiles(revision=0, profiles={DEFAULT: plain})
