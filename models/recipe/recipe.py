"""Owns the recipe: the YAML that says what a model reads, predicts, is made of, and how it is trained."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from features import FeatureError, FeatureSchema
from models.errors import RecipeError
from models.recipe.errors import Places, explained, located
from models.recipe.file import read_recipe
from models.recipe.search_space import TuningSection, check_space
from models.recipe.selection import PATTERN as SELECTION

__all__ = ["Recipe", "RecipeError", "at_its_line", "load_recipe", "parse_recipe", "source_column"]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Column = Annotated[str, Field(min_length=1)]
Hidden = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
WHERE_DATA_LIES = {"dir", "fallback", "how_to_get"}  # of the section `data`: matters less than what is in the tables
LOG1P = "log1p("  # opens a label that is the logarithm of 1 + a column


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeSplit(_Strict):
    """Impressions by time: each part is [from, to), ISO 8601 with an offset."""

    by: Literal["time"]
    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    test: tuple[datetime, datetime]

    @field_validator("train", "validation", "test")
    @classmethod
    def _has_offset(cls, value: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
        if any(t.tzinfo is None for t in value):
            raise ValueError("give times an offset, as in 2022-05-01T00:00:00+08:00")
        if value[0] >= value[1]:
            raise ValueError("the part ends before it starts")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> "TimeSplit":
        if not (self.train[1] <= self.validation[0] and self.validation[1] <= self.test[0]):
            raise ValueError("train, validation and test must follow each other in time without overlap")
        return self


class ColumnSplit(_Strict):
    """Impressions by the values of one of their columns (a part's name, a day's partition): a value that no part lists is left out."""

    by: Literal["column"]
    column: Column
    train: tuple[str | int, ...] = ("train",)
    validation: tuple[str | int, ...] = ("validation",)
    test: tuple[str | int, ...] = ("test",)

    @model_validator(mode="after")
    def _disjoint(self) -> "ColumnSplit":
        values = [*self.train, *self.validation, *self.test]
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"the value {value!r} stands in two parts")
        return self


class DataSection(_Strict):
    """Where the canonical tables lie, which columns carry ids and time, and how impressions are split.

    `dir` is tried first, then `fallback` (the sample in the repository); `how_to_get` tells somebody who has neither. A behaviour is visible
    to an impression when it is more than `behaviour_lag_s` seconds older, so with 0 still strictly older. `request_id`: the
    column of impressions whose equal values were shown together as one list; metrics of order are then those of lists.
    """

    dir: str
    fallback: str | None = None
    how_to_get: str | None = None
    impressions: str = "impressions.parquet"
    users: str | None = "users.parquet"
    items: str | None = "items.parquet"
    behaviours: str | None = "behaviours.parquet"
    user_id: Column = "user_id"
    item_id: Column = "item_id"
    time_ms: Column = "time_ms"
    request_id: Column | None = None
    behaviour_lag_s: Annotated[float, Field(ge=0)] = 0.0
    split: Annotated[TimeSplit | ColumnSplit, Field(discriminator="by")]


class IndependentTask(_Strict):
    """A head of its own: `name` is the output, `label` its column; `space` restricts its loss to impressions where that column is 1.

    A `value` may have the label `log1p(column)`: it learns and gives the natural logarithm of 1 + that column, which must not be negative.
    """

    type: Literal["independent"]
    name: Name
    label: Column
    space: Column | None = None
    kind: Literal["probability", "value"] = "probability"


class EsmmTask(_Strict):
    """The ESMM chain click -> conversion: outputs pctr, pcvr, pctcvr."""

    type: Literal["esmm"]
    click: Column
    conversion: Column


class Esm2Task(_Strict):
    """The ESM2 chain click -> action -> conversion: outputs pctr, pctavr, pcvr, pctcvr."""

    type: Literal["esm2"]
    click: Column
    action: Column
    conversion: Column


class RankWeightsTask(_Strict):
    """DUPN's learning to rank: the user's representation weighs the named numeric item features.

    `importance`: label columns with a factor; an impression's loss counts by the largest of those whose column is 1, or once.
    """

    type: Literal["rank_weights"]
    name: Name
    label: Column
    features: Annotated[tuple[Column, ...], Field(min_length=1)]
    importance: dict[Column, Positive] = {}


class ClassPreferenceTask(_Strict):
    """DUPN's price preference: the class of item that the user goes for where `label` is 1; `edges` cut a numeric item `feature` into classes."""

    type: Literal["class_preference"]
    name: Name
    label: Column
    feature: Column
    edges: Annotated[tuple[float, ...], Field(min_length=1, max_length=63)]

    @field_validator("edges")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("edges must ascend")
        return value


Task = Annotated[
    IndependentTask | EsmmTask | Esm2Task | RankWeightsTask | ClassPreferenceTask, Field(discriminator="type")
]


class PositionSection(_Strict):
    """The position-bias tower: its columns, and the head whose training logit it shifts."""

    column: Column
    cross: Column | None = None
    max_position: Annotated[int, Field(ge=1, le=10_000)] = 100
    drop_rate: Rate = 0.1
    head: Name


class EmbeddingSection(_Strict):
    """`min_count`: rarer ids share their vocabulary's unknown row; `unknown_rate`: share of known ids shown as unknown in training."""

    dim: Annotated[int, Field(ge=1, le=512)] = 16
    min_count: Annotated[int, Field(ge=1)] = 2
    unknown_rate: Rate = 0.02


class PoolingEncoder(_Strict):
    type: Literal["pooling"]


class DinEncoder(_Strict):
    type: Literal["din"]
    hidden: Hidden = (32, 16)
    activation: Literal["prelu", "dice"] = "prelu"
    softmax: bool = False


class DupnEncoder(_Strict):
    """`hidden`: width of the LSTM's state; `user_hidden`: of the user's own part of the representation."""

    type: Literal["dupn"]
    hidden: Annotated[int, Field(ge=1, le=1024)] = 128
    user_hidden: Annotated[int, Field(ge=1, le=1024)] = 128
    attention_hidden: Annotated[int, Field(ge=1, le=1024)] = 64


class SeparateTrunk(_Strict):
    type: Literal["separate"]
    hidden: Hidden = (128, 64)


class SharedBottomTrunk(_Strict):
    type: Literal["shared_bottom"]
    hidden: Hidden = (128, 64)


class OmoeTrunk(_Strict):
    type: Literal["omoe"]
    experts: Annotated[int, Field(ge=1, le=64)] = 4
    expert_hidden: Hidden = (128, 64)


class MmoeTrunk(_Strict):
    """`expert_dropout`: share of gate values set to 0 in training, the rest renormalised."""

    type: Literal["mmoe"]
    experts: Annotated[int, Field(ge=1, le=64)] = 4
    expert_hidden: Hidden = (128, 64)
    expert_dropout: Rate = 0.0


class PleTrunk(_Strict):
    """`levels` = 1 is CGC."""

    type: Literal["ple"]
    levels: Annotated[int, Field(ge=1, le=8)] = 2
    own_experts: Annotated[int, Field(ge=1, le=32)] = 2
    shared_experts: Annotated[int, Field(ge=1, le=32)] = 2
    expert_hidden: Hidden = (64,)


class Youtube2019Trunk(_Strict):
    """One shared layer below a mixture of experts; `expert_dropout` as there."""

    type: Literal["youtube2019"]
    shared_width: Annotated[int, Field(ge=1, le=4096)] = 128
    experts: Annotated[int, Field(ge=1, le=64)] = 4
    expert_hidden: Hidden = (64,)
    expert_dropout: Rate = 0.1


class NfwfmTrunk(_Strict):
    """`hidden`: the layers that all tasks share above the interactions; give `tower_hidden: []`, so that the tasks split at the last layer."""

    type: Literal["nfwfm"]
    hidden: Hidden = (128, 64)


Encoder = Annotated[PoolingEncoder | DinEncoder | DupnEncoder, Field(discriminator="type")]
Trunk = Annotated[
    SeparateTrunk | SharedBottomTrunk | OmoeTrunk | MmoeTrunk | PleTrunk | Youtube2019Trunk | NfwfmTrunk,
    Field(discriminator="type"),
]


class ModelSection(_Strict):
    """A catalogue entry, and what of its composition the recipe sets itself; several encoders stand side by side."""

    architecture: Name
    embedding: EmbeddingSection = EmbeddingSection()
    encoders: tuple[Encoder, ...] | None = None
    trunk: Trunk | None = None
    tower_hidden: tuple[Annotated[int, Field(ge=1)], ...] = (32,)
    dropout: Rate = 0.0


class TransferSection(_Strict):
    """How the task named `task` is learnt, DUPN's four ways (its section 5.4). Of the other tasks only `retrain_all` keeps any.

    `retrain_single`: alone, from the beginning; `retrain_all`: with all others, from the beginning; `representation_transfer`: embeddings and
    encoders of the run `from`, frozen, below a fresh network; `fine_tune`: every weight of that run that fits, and all go on training, embeddings
    and encoders at `representation_rate` times the learning rates. Few labels call for a low one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    mode: Literal["retrain_single", "retrain_all", "representation_transfer", "fine_tune"]
    task: Name
    source: Annotated[str | None, Field(alias="from")] = None
    representation_rate: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _has_source(self) -> "TransferSection":
        needed = self.mode in ("representation_transfer", "fine_tune")
        if needed and self.source is None:
            raise ValueError(f"{self.mode} needs 'from', the folder of a finished run")
        if not needed and self.source is not None:
            raise ValueError(f"{self.mode} starts from the beginning; remove 'from'")
        if self.mode != "fine_tune" and self.representation_rate != 1:
            raise ValueError(f"{self.mode} has no use for 'representation_rate', which is fine_tune's")
        return self


class StaticWeighting(_Strict):
    """`loss_weights` as they are."""

    type: Literal["static"]


class DecayedWeighting(_Strict):
    """PLE's: each loss weight times its `decay` to the power of the epoch, 1 where no decay is given."""

    type: Literal["decayed"]
    decay: Annotated[dict[Name, Positive], Field(min_length=1)]


class UncertaintyWeighting(_Strict):
    """Homoscedastic uncertainty with |log sigma^2| <= `bound`, so weights stay within exp(-bound) and exp(bound)."""

    type: Literal["uncertainty"]
    bound: Annotated[float, Field(gt=0, le=10)] = 2.0
    learning_rate: Positive = 0.02


class GradnormWeighting(_Strict):
    """`alpha`: how strongly a task that learns slowly is pulled forward; 0 makes all gradients equally large."""

    type: Literal["gradnorm"]
    alpha: Annotated[float, Field(ge=0)] = 1.5
    learning_rate: Positive = 0.025


class PcgradWeighting(_Strict):
    """Gradient surgery: tasks in conflict each give up the component along the other."""

    type: Literal["pcgrad"]


Weighting = Annotated[
    StaticWeighting | DecayedWeighting | UncertaintyWeighting | GradnormWeighting | PcgradWeighting,
    Field(discriminator="type"),
]


class TrainingSection(_Strict):
    """`select_on`: the outputs whose mean validation AUC picks the best weights, or other metrics of them: `gauc(pctr)`,
    `ndcg@10(pctcvr)`, `mrr(pctr)`; metrics of different kinds are refused. `averaging`: decay of the weight average, 0 for none.

    The learning rates rise linearly over `warmup_steps` and then stay, or with `cosine` fall to `final_rate` of themselves at the end.
    `optimiser`: `adagrad` is DUPN's; its steps only grow smaller, so give it larger rates. `embedding_weight_decay` touches a row only
    in steps in which it occurs. `position_learning_rate` and `position_weight_decay` are those of the position tower, whose weights are logits. `gradient_clip` bounds the gradient's norm, 0 for none. `loss_weights` (1 for an output that is not there)
    are what `weighting` starts from.
    """

    epochs: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=2)] = 1024
    optimiser: Literal["adam", "adagrad"] = "adam"
    learning_rate: Positive = 1e-3
    embedding_learning_rate: Positive | None = None
    position_learning_rate: Positive = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    embedding_weight_decay: Annotated[float, Field(ge=0)] = 0.0
    position_weight_decay: Annotated[float, Field(ge=0)] = 0.0
    averaging: Rate = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_rate: Annotated[float, Field(ge=0, le=1)] = 0.05
    gradient_clip: Annotated[float, Field(ge=0)] = 0.0
    evaluations_per_epoch: Annotated[int, Field(ge=1)] = 1
    patience: Annotated[int, Field(ge=1)] = 2
    select_on: tuple[Annotated[str, Field(pattern=SELECTION)], ...] = ()
    loss_weights: dict[Name, Positive] = {}
    weighting: Weighting = StaticWeighting(type="static")
    seed: int = 1
    transfer: TransferSection | None = None


class CalibrationSection(_Strict):
    """Of factors: an independent probability task, or the `pctr`, `pcvr` and (ESM2) `pavr` that a chain multiplies.

    `negative_sampling`: the share of a factor's negatives that the training part kept; validation and test must be whole. `method` is
    fitted on the validation part, `knots` bounds an isotonic map.
    """

    method: Literal["none", "platt", "isotonic"] = "platt"
    knots: Annotated[int, Field(ge=2, le=200)] = 20
    negative_sampling: dict[Name, Annotated[float, Field(gt=0, le=1)]] = {}


class ExtraEvaluation(_Strict):
    """A score held against another label than its own, as when a chain's score ranks for a label outside the chain."""

    score: Name
    label: Column


class Recipe(_Strict):
    """All of it, with what the file `extends` laid under it. Labels and the position are refused as ordinary features."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: str
    data: DataSection
    features: FeatureSchema
    tasks: tuple[Task, ...] = Field(min_length=1)
    position: PositionSection | None = None
    model: ModelSection
    training: TrainingSection = TrainingSection()
    calibration: CalibrationSection | None = None
    extra_evaluations: tuple[ExtraEvaluation, ...] = ()
    tuning: TuningSection | None = None

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        roles = dict.fromkeys(map(source_column, self.label_columns), "a label")
        if self.position:
            roles[self.position.column] = "the position"
        try:
            self.features.refuse_columns(roles)
        except FeatureError as error:
            raise ValueError(f"feature '{error.field}': {error.message}") from None
        if self.tuning:
            check_space(self, self.tuning.space)
        return self

    @property
    def value_columns(self) -> frozenset[str]:
        """Label columns that only `value` tasks read: any finite number, where the others hold 0 or 1."""
        values = {t.label for t in self.tasks if isinstance(t, IndependentTask) and t.kind == "value"}
        others = {
            column for t in self.tasks for column in _labels_of(t) if getattr(t, "kind", "probability") == "probability"
        }
        others |= {e.label for e in self.extra_evaluations}
        return frozenset(values - others)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Every column that a task or an evaluation reads as a label, in order, once."""
        columns = [column for task in self.tasks for column in _labels_of(task)]
        return tuple(dict.fromkeys([*columns, *(e.label for e in self.extra_evaluations)]))


def _labels_of(task: Task) -> list[str]:
    named = [
        getattr(task, role) for role in ("label", "space", "click", "action", "conversion") if getattr(task, role, None)
    ]
    return [*named, *getattr(task, "importance", ())]


def source_column(label: str) -> str:
    """The column that a label is read from: of `log1p(column)` that column, else the label itself."""
    return label.removeprefix(LOG1P).removesuffix(")") if label.startswith(LOG1P) and label.endswith(")") else label


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a YAML file and of those that it `extends`, with `section.key=value` overrides on top.

    Raises RecipeError that names every bad place with its file and line (or its override) and the nearest valid name.
    """
    try:
        raw, places = read_recipe(path, overrides)
        return _parsed(raw, places)
    except RecipeError as error:
        error.placed = True
        raise


def parse_recipe(raw: dict[str, Any], origin: str) -> Recipe:
    """The recipe of a plain mapping; `origin` opens the error messages. Raises RecipeError that names every bad place."""
    places = Places(origin)
    places.add_plain(raw, ())
    return _parsed(raw, places)


def at_its_line(error: RecipeError, path: Path, overrides: tuple[str, ...] = ()) -> str:
    """The message of an error that only showed after the recipe was read, with the line (or the override) of what it is about."""
    return str(error) if error.placed else located(str(error), read_recipe(path, overrides)[1])


def _parsed(raw: dict[str, Any], places: Places) -> Recipe:
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError("\n".join(explained(error.errors(), Recipe, places))) from None
