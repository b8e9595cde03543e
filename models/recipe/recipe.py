"""The recipe: defines a model's features, tasks and architecture, and its training."""

from typing import Annotated

from pydantic import Field, model_validator

from features import FeatureError, FeatureSchema
from features.nearest import nearest
from features.schemas.rule_features import RuleFeatures
from models.catalogue import Task
from models.errors import RecipeError
from models.kinds import PROBABILITY, TaskKind
from models.layers.calibration import CalibrationSection
from models.layers.position_bias import PositionSection
from models.options import Column, Name, Options
from models.recipe.sections.data import DataSection, source_column
from models.recipe.sections.log import LogSection
from models.recipe.sections.model import ModelSection
from models.recipe.sections.search_space import TuningSection, check_space
from models.recipe.sections.training import TrainingSection


class ExtraEvaluation(Options):
    """A score that is evaluated on another label than its own, such as the score of a chain on a label outside it."""

    score: Name
    label: Column


class Recipe(Options):
    """A whole recipe, with the file that it `extends` laid under it. Labels and the position cannot be features.

    `rule_features` are in the bundle's schema for rules alone: training does not read them.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: str
    data: DataSection
    features: FeatureSchema
    rule_features: Annotated[RuleFeatures | None, Field(exclude_if=lambda value: value is None)] = None
    tasks: tuple[Task, ...] = Field(min_length=1)
    position: PositionSection | None = None
    model: ModelSection
    training: TrainingSection = TrainingSection()
    calibration: CalibrationSection | None = None
    extra_evaluations: tuple[ExtraEvaluation, ...] = ()
    tuning: TuningSection | None = None
    log: LogSection | None = None

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        roles = dict.fromkeys(map(source_column, self.label_columns), "a label")
        if self.position:
            roles[self.position.column] = "the position"
            for column in self.position.crossed:
                if column in roles:
                    problem = f"position.cross: '{column}' is {roles[column]} and cannot be crossed with the position"
                    raise RecipeError(problem, ("position", "cross"), column)
        try:
            self.features.refuse_columns(roles)
        except FeatureError as error:
            raise RecipeError(f"feature '{error.field}': {error.message}", ("features",), error.field) from None
        compared = next((f for f in self.features.item if getattr(f, "within_request", False)), None)
        if compared is not None and self.data.request_id is None:
            problem = f"feature '{compared.name}' has within_request, which needs data.request_id"
            raise RecipeError(problem, ("data",), compared.name)
        by_scene = next((c for c in self.features.counters if c.by == "scene"), None)
        if by_scene is not None and self.data.scene is None and not self.data.served:
            problem = f"counter '{by_scene.name}' is kept by scene, which needs data.scene, a column of the impressions"
            raise RecipeError(problem, ("data",), by_scene.name)
        self._check_gains()
        if self.training.negative_sampling < 1 and not self.binary_columns:
            problem = "training.negative_sampling: no task has a label of 0 or 1, so no impression is negative"
            raise RecipeError(problem, ("training",), "negative_sampling")
        if self.rule_features is not None:
            self.rule_features.behind(self.features)
        if self.tuning:
            check_space(self, self.tuning.space)
        return self

    def _check_gains(self) -> None:
        section = ("training", "gains")
        for label in self.training.gains:
            if label not in self.label_columns:
                near = nearest(label, self.label_columns)
                raise RecipeError(f"training.gains: '{label}' is the label of no task{near}", section, label)
            if label in self.value_columns:
                raise RecipeError(
                    f"training.gains: '{label}' is a value; a gain needs a label of 0 or 1", section, label
                )
        selects = any(entry.startswith("gain_ndcg@") for entry in self.training.select_on)
        if selects and not self.training.gains:
            problem = "training.select_on: gain_ndcg needs training.gains, which says what each label is worth"
            raise RecipeError(problem, ("training", "select_on"))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Every column that a task or an evaluation reads as a label, without duplicates, in order."""
        columns = [column for task in self.tasks for column in task.labels]
        return tuple(dict.fromkeys([*columns, *(e.label for e in self.extra_evaluations)]))

    @property
    def label_kinds(self) -> dict[str, tuple[TaskKind, ...]]:
        """The kinds of task that read each label column; a label must suit all of them."""
        kinds: dict[str, list[TaskKind]] = {column: [] for column in self.label_columns}
        for task in self.tasks:
            for column, kind in task.label_kinds.items():
                kinds[column].append(kind)
        for evaluation in self.extra_evaluations:
            kinds[evaluation.label].append(PROBABILITY)
        return {column: tuple(of_column) for column, of_column in kinds.items()}

    @property
    def binary_columns(self) -> tuple[str, ...]:
        """Label columns of 0 and 1, in order."""
        return tuple(column for column in self.label_columns if column not in self.value_columns)

    @property
    def value_columns(self) -> frozenset[str]:
        """Label columns that may contain numbers other than 0 and 1."""
        return frozenset(column for column, kinds in self.label_kinds.items() if PROBABILITY not in kinds)
