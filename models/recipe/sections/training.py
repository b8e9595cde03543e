"""The section `training` of a recipe: optimiser, schedule, weighting of the losses, and transfer from another run."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from models.errors import RecipeError
from models.list_losses import ListLoss
from models.options import Column, Name, Options, Positive, Rate
from models.recipe.sections.selection import PATTERN as SELECTION


class TransferSection(Options):
    """DUPN's four ways to learn the task named `task` (section 5.4). Only `retrain_all` keeps the other tasks.

    `retrain_single`: alone, from the beginning; `retrain_all`: with all others, from the beginning;
    `representation_transfer`: a new network on the frozen embeddings and encoders of the run `from`; `fine_tune`:
    starts from every weight of that run that fits and trains all weights, embeddings and encoders at
    `representation_rate` times the learning rates. If there are few labels, this rate should be low.
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
            raise RecipeError(f"{self.mode} needs 'from', the folder of a finished run", name="from")
        if not needed and self.source is not None:
            raise RecipeError(f"{self.mode} starts from the beginning; remove 'from'", name="from")
        if self.mode != "fine_tune" and self.representation_rate != 1:
            problem = f"{self.mode} does not take 'representation_rate', which belongs to fine_tune"
            raise RecipeError(problem, name="representation_rate")
        return self


class StaticWeighting(Options):
    """Constant `loss_weights`."""

    type: Literal["static"]


class DecayedWeighting(Options):
    """As in PLE: each loss weight times its `decay` to the power of the epoch; the default decay is 1."""

    type: Literal["decayed"]
    decay: Annotated[dict[Name, Positive], Field(min_length=1)]


class UncertaintyWeighting(Options):
    """Homoscedastic uncertainty with |log sigma^2| <= `bound`, so weights stay within exp(-bound) and exp(bound)."""

    type: Literal["uncertainty"]
    bound: Annotated[float, Field(gt=0, le=10)] = 2.0
    learning_rate: Positive = 0.02


class GradnormWeighting(Options):
    """`alpha`: how strongly a task that learns slowly is favoured; 0 makes all gradients equally large."""

    type: Literal["gradnorm"]
    alpha: Annotated[float, Field(ge=0)] = 1.5
    learning_rate: Positive = 0.025


class PcgradWeighting(Options):
    """Gradient surgery: if the gradients of two tasks conflict, each loses its component along the other."""

    type: Literal["pcgrad"]


Weighting = Annotated[
    StaticWeighting | DecayedWeighting | UncertaintyWeighting | GradnormWeighting | PcgradWeighting,
    Field(discriminator="type"),
]


class TrainingSection(Options):
    """`select_on`: the metrics whose mean over the validation part picks the best weights.

    Such as `gauc(pctr)`, `ndcg@10(pctcvr)`, `recall@20(pctr)`, `mrr(pctr)` or `pctr`, which is its AUC; measures of
    different kinds are refused. `gains`: by label, the gain of an impression with it; gains of several labels add up,
    and `gain_ndcg@10(pctr)` says how well an output's order serves all of them. Without entries every trained
    probability counts by its GAUC, the order inside a list. `list_losses`: by output, a loss on that order beside the
    log loss; batches then keep lists whole. A list is a request where the recipe has `data.request_id`, and all
    impressions of a user otherwise. `averaging`: decay of the weight average, 0
    for none. The learning rates rise linearly over `warmup_steps` and then stay, or with `cosine` fall to `final_rate`
    of themselves at the end. `optimiser`: `adagrad` is DUPN's; its steps only grow smaller, so give it larger rates.
    `embedding_updates`: with `dense` every step updates and averages the whole table; `lazy_adam` and
    `rowwise_adagrad` change only the rows that occur in the batch, so that a step costs the same however many rows the
    table has. `lazy_adam` is Adam that counts the steps of each row on its own; `rowwise_adagrad` keeps one number per
    row and wants larger rates. `embedding_dtype`: with `bfloat16` the embeddings take half the memory while a run
    trains; it needs updates other than `dense`. Moments, sums and the average stay float32, changed weights are rounded
    up or down at random so that small steps count, and the bundle has float32.
    `embedding_weight_decay` changes a row only in steps in which it occurs. `position_learning_rate` and
    `position_weight_decay` are those of the position tower, whose weights are logits. `gradient_clip` bounds the norm
    of the gradient, 0 for none. `negative_sampling`: the share of the training impressions without any positive label
    that is trained on; each of them then counts as 1 / share (docs/sample-weights.md). `weighting` starts from
    `loss_weights` (1 for an output without one). `ensemble`: the number of networks to train with different seeds;
    their mean logits are one model in one bundle. The network's part of a ranking costs about as many times as much.
    """

    epochs: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=2)] = 1024
    optimiser: Literal["adam", "adagrad"] = "adam"
    # Left out at its default, so that a run that was begun before the key existed can be resumed.
    embedding_updates: Annotated[
        Literal["dense", "lazy_adam", "rowwise_adagrad"], Field(exclude_if=lambda value: value == "dense")
    ] = "dense"
    embedding_dtype: Annotated[Literal["float32", "bfloat16"], Field(exclude_if=lambda value: value == "float32")] = (
        "float32"
    )
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
    gains: Annotated[dict[Column, Positive], Field(exclude_if=lambda value: not value)] = Field(default_factory=dict)
    loss_weights: dict[Name, Positive] = Field(default_factory=dict)
    list_losses: Annotated[dict[Name, ListLoss], Field(exclude_if=lambda value: not value)] = Field(
        default_factory=dict
    )
    negative_sampling: Annotated[float, Field(gt=0, le=1, exclude_if=lambda value: value == 1)] = 1.0
    weighting: Weighting = StaticWeighting(type="static")
    seed: Annotated[int, Field(ge=0)] = 1
    # Left out if it is 1, as above.
    ensemble: Annotated[int, Field(ge=1, le=20, exclude_if=lambda value: value == 1)] = 1
    transfer: TransferSection | None = None

    @model_validator(mode="after")
    def _bfloat16_has_rules_of_its_own(self) -> "TrainingSection":
        if self.embedding_dtype == "float32":
            return self
        if self.embedding_updates == "dense":
            raise RecipeError("bfloat16 needs embedding_updates other than dense", name="embedding_dtype")
        if self.weighting.type in ("gradnorm", "pcgrad"):
            problem = f"bfloat16 does not go with weighting '{self.weighting.type}', which compares gradients"
            raise RecipeError(problem, name="embedding_dtype")
        return self
