"""Holds all rules bound to one model, and chooses those of a request by its scene and user."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from features import RowLayout
from features.nearest import nearest
from service.errors import InvalidRequest, invalid
from service.rules.bound import BoundRules, bind_rules
from service.rules.definition.rule_sets import RuleSets, RulesExperiment
from service.user_split import share_of


@dataclass(frozen=True, eq=False)
class ChosenRules:
    """The rules of one request: the list `name` of a revision, and the experiment and arm that gave it, if any."""

    revision: int
    name: str
    bound: BoundRules
    experiment: str | None = None
    arm: str | None = None


@dataclass(frozen=True, eq=False)
class SceneRules:
    """Every list of a rules document, bound to one model."""

    rule_sets: RuleSets
    bound: Mapping[str, BoundRules]
    experiments: Mapping[str | None, tuple[str, RulesExperiment]] = field(default_factory=dict)

    @cached_property
    def exposure_days(self) -> float:
        """The number of days for which any of the lists needs the user's exposures; 0 if none does."""
        return max((bound.exposure_days for bound in self.bound.values()), default=0.0)

    def for_user(self, scene: str | None, user_id: str) -> ChosenRules | None:
        """Return the rules of a scene, or of the user's arm in the scene's experiment; None if there are none."""
        name = self.rule_sets.name_for(scene)
        experiment_name = None
        arm_name = None
        assigned = self.experiments.get(scene)
        if assigned is not None:
            experiment_name, experiment = assigned
            share = share_of(user_id, experiment.salt or experiment_name, [arm.percent for arm in experiment.arms])
            if share is None:
                experiment_name = None
            else:
                name = experiment.arms[share].rules
                arm_name = experiment.arms[share].name
        bound = self.bound.get(name)
        # An arm without rules is reported too, so that both sides of an experiment can be compared.
        if bound is None or (not bound.rules and arm_name is None):
            return None
        return ChosenRules(self.rule_sets.revision, name, bound, experiment_name, arm_name)

    def named(self, name: str) -> ChosenRules | None:
        """Return a list by its name, also one that no scene uses; None if it has no rule. Raises InvalidRequest."""
        if name not in self.bound:
            raise no_list(name, self.bound)
        bound = self.bound[name]
        return ChosenRules(self.rule_sets.revision, name, bound) if bound.rules else None


def no_list(name: str, known: Collection[str]) -> InvalidRequest:
    """Return the error of a list that the document lacks."""
    return invalid("rules", f"no rules '{name}'{nearest(name, known)}")


def bind_scenes(
    rule_sets: RuleSets, layout: RowLayout, tasks: tuple[str, ...], outputs: Sequence[str] = ()
) -> SceneRules | None:
    """Bind all rules to one model; None if there is no rule at all. Raises RulesError."""
    if not any(rule_sets.rules.values()):
        return None
    bound = bind_rules(rule_sets, layout, tasks, outputs)
    experiments = {experiment.scene: (name, experiment) for name, experiment in rule_sets.experiments.items()}
    return SceneRules(rule_sets, bound, experiments)
