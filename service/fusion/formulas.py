"""Computes ranking scores `[C]` from task scores `[tasks, C]`, by fusion profiles that are bound to a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from features.nearest import nearest
from service.errors import invalid
from service.fusion.expression import Expression, parse
from service.fusion.profiles import DEFAULT, Experiment, WeightBounds
from service.user_split import share_of

TINY = 1e-38


@dataclass(frozen=True, eq=False)
class Explained:
    """One input of a ranking score: its `values` and `parts` float64 `[C]`, and its weight if it has one.

    The part is a summand of a sum, or a factor of a product (then also with its logarithm). For a formula, the part is
    the difference between the candidate's score and the score with this input at the mean of the request's candidates.
    """

    name: str
    values: np.ndarray
    weight: float | None
    parts: np.ndarray
    is_score: bool = True
    is_factor: bool = False


@dataclass(frozen=True, eq=False)
class Formula:
    """A profile bound to a model: `rows` are the indices of its tasks among the model's tasks, `weights` float64 of
    equal length.
    """

    profile: str
    kind: str
    tasks: tuple[str, ...]
    rows: np.ndarray
    weights: np.ndarray
    overridden: bool = False
    bounds: Mapping[str, WeightBounds] = field(default_factory=dict)

    def fuse(self, scores: np.ndarray, numerics: np.ndarray | None = None) -> np.ndarray:
        """Return ranking scores float64 `[C]` from task scores `[tasks, C]`; formulas may also read the items'
        `numerics` `[C, N]`.
        """
        used = scores.take(self.rows, 0).astype(np.float64)
        if self.kind == "weighted_sum":
            return np.asarray(self.weights @ used)
        with np.errstate(over="ignore"):  # absurd weights make an infinite score, which is answered as no score
            return np.asarray(np.exp(self.weights @ np.log(np.maximum(used, TINY))))

    def parts(self, scores: np.ndarray) -> np.ndarray:
        """Return each task's part of the ranking score, float64 `[len(tasks), C]`: summands of a sum, factors of a
        product.
        """
        used = scores[self.rows].astype(np.float64)
        if self.kind == "weighted_sum":
            return np.asarray(self.weights[:, None] * used)
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(self.weights[:, None] * np.log(np.maximum(used, TINY))))

    def explain(self, scores: np.ndarray, numerics: np.ndarray | None = None) -> list[Explained]:
        """Each input's effect on the ranking scores."""
        parts = self.parts(scores)
        factor = self.kind == "weighted_product"
        return [
            Explained(task, scores[row], float(weight), part, is_factor=factor)
            for task, row, weight, part in zip(self.tasks, self.rows.tolist(), self.weights, parts, strict=True)
        ]

    def named_weights(self) -> dict[str, float]:
        return dict(zip(self.tasks, self.weights.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Computed(Formula):
    """A profile of the kind `formula`.

    `constants` are its own weights; `columns` are the indices of its numeric features among the item's.
    """

    expression: Expression = field(default_factory=lambda: parse("0"))
    constants: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, float] = field(default_factory=dict)

    def fuse(self, scores: np.ndarray, numerics: np.ndarray | None = None) -> np.ndarray:
        return self.expression.compute(self._values(scores, numerics), scores.shape[1])

    def explain(self, scores: np.ndarray, numerics: np.ndarray | None = None) -> list[Explained]:
        values = self._values(scores, numerics)
        count = scores.shape[1]
        whole = self.expression.compute(values, count)
        explained = []
        stated = {task: scores[row] for task, row in zip(self.tasks, self.rows.tolist(), strict=True)}
        for name in (*self.tasks, *self.columns):
            finite = values[name][np.isfinite(values[name])]
            average = np.full(count, finite.mean() if len(finite) else np.nan)
            parts = whole - self.expression.compute({**values, name: average}, count)
            explained.append(Explained(name, stated.get(name, values[name]), None, parts, is_score=name in stated))
        return explained

    def named_weights(self) -> dict[str, float]:
        return dict(self.constants)

    def _values(self, scores: np.ndarray, numerics: np.ndarray | None) -> dict[str, np.ndarray]:
        values = {
            task: scores[row].astype(np.float64) for task, row in zip(self.tasks, self.rows.tolist(), strict=True)
        }
        values |= {name: np.asarray(np.float64(value)) for name, value in self.constants.items()}
        for name, column in self.columns.items():
            stated = np.full(scores.shape[1], np.nan) if numerics is None else numerics[:, column].astype(np.float64)
            values[name] = np.where(np.isnan(stated), self.missing.get(name, 0.0), stated)
        return values


@dataclass(frozen=True)
class Chosen:
    """The arm of an experiment that a user is assigned to."""

    experiment: str
    arm: str


@dataclass(frozen=True, eq=False)
class Fusion:
    """All profiles bound to one model."""

    revision: int
    formulas: Mapping[str, Formula]
    scenes: Mapping[str, str]
    tasks: tuple[str, ...]
    experiments: Mapping[str | None, tuple[str, Experiment]] = field(default_factory=dict)

    def for_scene(self, scene: str | None) -> Formula:
        """Return the formula of a scene. Raises InvalidRequest that lists the known scenes."""
        if scene is None:
            return self.formulas[DEFAULT]
        profile = self.scenes.get(scene)
        if profile is None:
            raise invalid("scene", f"unknown scene '{scene}'{nearest(scene, self.scenes)}")
        return self.formulas[profile]

    def for_user(self, scene: str | None, user_id: str) -> tuple[Formula, Chosen | None]:
        """Return the formula of a scene, or of the user's arm in the scene's experiment. Raises InvalidRequest."""
        formula = self.for_scene(scene)
        assigned = self.experiments.get(scene)
        if assigned is None:
            return formula, None
        name, experiment = assigned
        share = share_of(user_id, experiment.salt or name, [arm.percent for arm in experiment.arms])
        if share is None:
            return formula, None
        arm = experiment.arms[share]
        return self.formulas[arm.profile], Chosen(name, arm.name)

    def named(self, profile: str) -> Formula:
        """Return the formula of a profile, also of one that no scene uses. Raises InvalidRequest."""
        if profile not in self.formulas:
            raise invalid("profile", f"no profile '{profile}'{nearest(profile, self.formulas)}")
        return self.formulas[profile]

    def with_weights(self, formula: Formula, weights: Mapping[str, float]) -> Formula:
        """Return `formula` with some weights replaced for one request.

        Raises InvalidRequest for a weight that is unknown or out of bounds.
        """
        known = formula.constants if isinstance(formula, Computed) else self.tasks
        for name, weight in weights.items():
            _check_weight(formula, name, weight, known)
        merged = formula.named_weights() | dict(weights)
        if isinstance(formula, Computed):
            return replace(formula, constants=merged, overridden=True)
        return replace(
            formula, tasks=tuple(merged), rows=rows_of(merged, self.tasks), weights=weights_of(merged), overridden=True
        )


def _check_weight(formula: Formula, name: str, weight: float, known: Sequence[str] | Mapping[str, float]) -> None:
    field_name = f"fusion.weights.{name}"
    if name not in known:
        computed = isinstance(formula, Computed)
        problem = f"profile '{formula.profile}' has no weight" if computed else "the model has no task"
        raise invalid(field_name, f"{problem} '{name}'{nearest(name, known)}")
    if not formula.bounds:
        return
    bounds = formula.bounds.get(name)
    if bounds is None:
        raise invalid(
            field_name, f"the operator does not allow to change this weight; allowed: {', '.join(formula.bounds)}"
        )
    if not bounds.min <= weight <= bounds.max:
        raise invalid(field_name, f"{weight:g} is outside {bounds.min:g}..{bounds.max:g}, which the operator allows")


def rows_of(used: Iterable[str], tasks: Sequence[str]) -> np.ndarray:
    return np.array([tasks.index(t) for t in used], dtype=np.int64)


def weights_of(weights: Mapping[str, float]) -> np.ndarray:
    return np.array(list(weights.values()), dtype=np.float64)
