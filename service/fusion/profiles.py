"""Owns fusion: from task scores to one ranking score per candidate, by the profile of the request's scene.

weighted_sum:      score = sum_t  w_t * s_t
weighted_product:  score = prod_t s_t ^ w_t, taken in log space; a score below 1e-38 counts as 1e-38
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import invalid
from service.manifest import Manifest

DEFAULT = "default"
TINY = 1e-38
Weight = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Weights = Annotated[dict[str, Weight], Field(min_length=1)]
ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class FusionError(ValueError):
    """A fusion file that cannot be used, or a profile that does not fit a model."""


class Profile(BaseModel):
    """How one ranking score is made: the kind of formula and one weight per task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["weighted_sum", "weighted_product"]
    weights: Weights


class FusionProfiles(BaseModel):
    """The fusion file: profiles by name, and which profile a scene uses. A request without a scene uses `default`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: Annotated[int, Field(ge=0)] = 1
    profiles: dict[ProfileName, Profile]
    scenes: dict[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> "FusionProfiles":
        if DEFAULT not in self.profiles:
            raise ValueError(f"profiles: one named '{DEFAULT}' is needed, for requests without a scene")
        for scene, profile in self.scenes.items():
            if profile not in self.profiles:
                raise ValueError(f"scenes.{scene}: no profile '{profile}'; known: {', '.join(self.profiles)}")
        return self


def read_profiles(path: Path) -> FusionProfiles:
    """Profiles of a YAML file. Raises FusionError that names the file and the field."""
    try:
        return FusionProfiles.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise FusionError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FusionError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise FusionError(f"{path}: {'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}") from None


def plain_profiles(manifest: Manifest) -> FusionProfiles:
    """What holds where no file is configured: every probability with weight 1, summed; all tasks where there is no probability."""
    tasks = [t.name for t in manifest.tasks if t.kind == "probability"] or list(manifest.task_names)
    return FusionProfiles(revision=0, profiles={DEFAULT: Profile(kind="weighted_sum", weights=dict.fromkeys(tasks, 1.0))})


@dataclass(frozen=True, eq=False)
class Formula:
    """A profile bound to a model: `rows` are the places of its tasks among the model's, `weights` float64 of equal length."""

    profile: str
    kind: str
    tasks: tuple[str, ...]
    rows: np.ndarray
    weights: np.ndarray
    overridden: bool = False

    def fuse(self, scores: np.ndarray) -> np.ndarray:
        """Ranking scores float64 `[C]` of task scores `[tasks, C]`."""
        used = scores[self.rows].astype(np.float64)
        if self.kind == "weighted_sum":
            return np.asarray(self.weights @ used)
        with np.errstate(over="ignore"):  # absurd weights make an infinite score, which is answered as no score
            return np.asarray(np.exp(self.weights @ np.log(np.maximum(used, TINY))))

    def parts(self, scores: np.ndarray) -> np.ndarray:
        """Each task's part of the ranking score, float64 `[len(tasks), C]`: summands of a sum, factors of a product."""
        used = scores[self.rows].astype(np.float64)
        if self.kind == "weighted_sum":
            return np.asarray(self.weights[:, None] * used)
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.weights[:, None] * np.log(np.maximum(used, TINY))))


@dataclass(frozen=True, eq=False)
class Fusion:
    """All profiles bound to one model."""

    revision: int
    formulas: Mapping[str, Formula]
    scenes: Mapping[str, str]
    tasks: tuple[str, ...]

    def for_scene(self, scene: str | None) -> Formula:
        """The formula of a scene. Raises InvalidRequest with the known scenes."""
        if scene is None:
            return self.formulas[DEFAULT]
        profile = self.scenes.get(scene)
        if profile is None:
            raise invalid("scene", f"unknown scene '{scene}'; known: {', '.join(self.scenes) or 'none'}")
        return self.formulas[profile]

    def with_weights(self, formula: Formula, weights: Mapping[str, float]) -> Formula:
        """`formula` with some weights replaced for one request. Raises InvalidRequest for a task the model lacks."""
        for task in weights:
            if task not in self.tasks:
                raise invalid(f"fusion.weights.{task}", f"the model has no task '{task}'; known: {', '.join(self.tasks)}")
        merged = dict(zip(formula.tasks, formula.weights.tolist(), strict=True)) | dict(weights)
        return replace(_formula(formula.profile, formula.kind, merged, self.tasks), overridden=True)


def _formula(name: str, kind: str, weights: Mapping[str, float], tasks: Sequence[str]) -> Formula:
    rows = np.array([tasks.index(t) for t in weights], dtype=np.int64)
    return Formula(name, kind, tuple(weights), rows, np.array(list(weights.values()), dtype=np.float64))


def bind(profiles: FusionProfiles, tasks: tuple[str, ...]) -> Fusion:
    """Profiles bound to a model's tasks. Raises FusionError for a profile that names a task the model lacks."""
    formulas = {}
    for name, profile in profiles.profiles.items():
        if lacking := [t for t in profile.weights if t not in tasks]:
            raise FusionError(f"fusion profile '{name}' names {', '.join(lacking)}, which the model lacks; it has {', '.join(tasks)}")
        formulas[name] = _formula(name, profile.kind, profile.weights, tasks)
    return Fusion(profiles.revision, formulas, profiles.scenes, tasks)
