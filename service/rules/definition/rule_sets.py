"""Defines the content of the rules document: lists of rules by scene, and experiments between them."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, model_validator

from features.nearest import nearest
from service.documents import MAX_REVISION
from service.rules.definition.conditions import Name, StrictModel
from service.rules.definition.rules import Pin, RuleList

DEFAULT = "default"
MAX_SETS = 200


class RulesArm(StrictModel):
    """One side of an experiment: a rule list for `percent` of the users."""

    name: Name
    rules: Name
    percent: Annotated[float, Field(gt=0, le=100)]


class RulesExperiment(StrictModel):
    """An experiment: rule lists compared on the requests of a scene, or on those without a scene.

    A stable hash with `salt` (default: the experiment's name) assigns users to the arms; users beyond the arms'
    percentages get the scene's own rules.
    """

    scene: Name | None = None
    salt: Annotated[str, Field(max_length=100)] = ""
    arms: Annotated[tuple[RulesArm, ...], Field(min_length=1, max_length=20)]


class RuleSets(StrictModel):
    """Rules by scene, in the operator's order: the first rule is the last to be relaxed.

    `default` is for every other scene, and for requests without one. The arms of experiments name lists too.
    """

    revision: Annotated[int, Field(ge=0, le=MAX_REVISION)] = 1
    rules: Annotated[dict[Name, RuleList], Field(max_length=MAX_SETS)]
    experiments: Annotated[dict[Name, RulesExperiment], Field(max_length=MAX_SETS)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "RuleSets":
        names_by_scene: dict[str | None, str] = {}
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            scene = experiment.scene
            if scene in names_by_scene:
                raise ValueError(f"{where}.scene: experiment '{names_by_scene[scene]}' has these requests already")
            names_by_scene[scene] = name
            if _repeats(arm.name for arm in experiment.arms):
                raise ValueError(f"{where}.arms: two have the same name")
            if sum(arm.percent for arm in experiment.arms) > 100.0001:
                raise ValueError(f"{where}.arms: they have more than 100 percent")
            for arm in experiment.arms:
                if arm.rules not in self.rules:
                    raise ValueError(f"{where}.arms: no rules '{arm.rules}'{nearest(arm.rules, self.rules)}")
        return self

    def listed_items(self) -> dict[str, str]:
        """The item ids that rules list, each with the field that lists it first."""
        fields: dict[str, str] = {}
        for scene, rules in self.rules.items():
            for place, rule in enumerate(rules):
                where = f"rules.{scene}[{place}]"
                if isinstance(rule, Pin) and rule.item_id is not None:
                    fields.setdefault(rule.item_id, f"{where}.item_id")
                for item_id in getattr(rule, "item_ids", None) or ():
                    fields.setdefault(item_id, f"{where}.item_ids")
        return fields

    def name_for(self, scene: str | None) -> str:
        """The name of a scene's list: `default` if it has none of its own."""
        return scene if scene is not None and scene in self.rules else DEFAULT

    def unused(self, scenes: Iterable[str]) -> list[str]:
        """The lists that no scene and no experiment names, so that no request uses them."""
        used = {DEFAULT, *scenes}
        for experiment in self.experiments.values():
            used |= {arm.rules for arm in experiment.arms}
        return [name for name in self.rules if name not in used]


def _repeats(names: Iterable[str]) -> bool:
    every = list(names)
    return len(set(every)) < len(every)
