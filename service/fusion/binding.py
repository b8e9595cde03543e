"""Binds fusion profiles to one model: its tasks and the numeric features of its items."""

from collections.abc import Sequence

import numpy as np

from features.nearest import nearest
from service.fusion.expression import FUNCTIONS, parse
from service.fusion.formulas import Computed, Formula, Fusion, rows_of, weights_of
from service.fusion.profiles import FusionError, FusionProfiles, Profile


def bind(profiles: FusionProfiles, tasks: tuple[str, ...], numerics: Sequence[str] = ()) -> Fusion:
    """Bind profiles to a model's tasks and the item's numerics, both in the model's order.

    Raises FusionError for a name that the model lacks.
    """
    formulas = {name: _bound(name, profile, tasks, numerics) for name, profile in profiles.profiles.items()}
    experiments = {e.scene: (name, e) for name, e in profiles.experiments.items()}
    return Fusion(profiles.revision, formulas, profiles.scenes, tasks, experiments)


def _bound(name: str, profile: Profile, tasks: tuple[str, ...], numerics: Sequence[str]) -> Formula:
    if profile.kind == "formula":
        return _computed(name, profile, tasks, numerics)
    if lacking := [t for t in profile.weights if t not in tasks]:
        message = f"fusion profile '{name}' names {', '.join(lacking)}, which the model lacks"
        raise FusionError(message + nearest(lacking[0], tasks, "it has"), f"profiles.{name}.weights")
    if unbounded := [t for t in profile.bounds if t not in tasks]:
        message = f"fusion profile '{name}' bounds {', '.join(unbounded)}, which the model lacks"
        raise FusionError(message + nearest(unbounded[0], tasks, "it has"), f"profiles.{name}.bounds")
    weights = profile.weights
    return Formula(
        name, profile.kind, tuple(weights), rows_of(weights, tasks), weights_of(weights), bounds=profile.bounds
    )


def _computed(name: str, profile: Profile, tasks: tuple[str, ...], numerics: Sequence[str]) -> Computed:
    # Every name in the formula must be a task, a numeric feature or a weight, and only one of these.
    expression = parse(profile.formula or "")
    where = f"profiles.{name}.formula"
    known = [*tasks, *numerics, *profile.weights]
    for used, column in expression.names.items():
        if used not in known:
            unknown = f"fusion profile '{name}': column {column}: unknown name '{used}'"
            functions = f"; functions: {', '.join(FUNCTIONS)}"
            raise FusionError(f"{unknown}{nearest(used, known)}{functions}", where)
        if known.count(used) > 1:
            raise FusionError(
                f"fusion profile '{name}': column {column}: '{used}' is ambiguous: task, numeric feature or weight",
                where,
            )

    # The formula is checked against the model first; the rest of the profile is checked against the formula.
    used_tasks = [t for t in tasks if t in expression.names]
    if not used_tasks:
        raise FusionError(
            f"fusion profile '{name}': the formula reads no task score; the model has {', '.join(tasks)}", where
        )
    if strange := [n for n in profile.missing if n not in numerics]:
        raise FusionError(
            f"fusion profile '{name}': missing: {', '.join(strange)} is not a numeric feature of the item"
            f"{nearest(strange[0], numerics)}",
            f"profiles.{name}.missing",
        )
    if strange := [n for n in profile.bounds if n not in profile.weights]:
        raise FusionError(
            f"fusion profile '{name}' bounds {', '.join(strange)}, which is none of its weights"
            f"{nearest(strange[0], profile.weights)}",
            f"profiles.{name}.bounds",
        )

    # Indices instead of names, so that a request needs no lookup.
    columns = {n: i for i, n in enumerate(numerics) if n in expression.names}
    return Computed(
        name,
        profile.kind,
        tuple(used_tasks),
        rows_of(used_tasks, tasks),
        np.ones(len(used_tasks)),
        bounds=profile.bounds,
        expression=expression,
        constants=dict(profile.weights),
        columns=columns,
        missing=profile.missing,
    )
