"""Defines what all task structures have in common: options, heads, outputs and their labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from features import FeatureSchema
from models.kinds import PROBABILITY, Score, TaskKind
from models.layers.probability import LogProbability
from models.options import Options

WEIGHT = "weight"  # in the batch of an output's loss: the weight of each impression, float `[B]`; absent if all are 1


def weighted(loss: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss of each impression, `[B]` or `[B, ...]`, times its weight."""
    weight_B = batch.get(WEIGHT)
    if weight_B is None:
        return loss
    return loss * weight_B.reshape(-1, *[1] * (loss.dim() - 1))


class Correction(ABC):
    """Replaces the loss of an output.

    `refuses_list_loss` says why the output takes no list loss, `refuses_weights` why its impressions take no weights;
    empty if they do.
    """

    refuses_list_loss: ClassVar[str] = ""
    refuses_weights: ClassVar[str] = ""

    @abstractmethod
    def loss(self, score: Score, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch, a scalar: the score and its label `[B]`, all labels, the logits `[B]` by head.

        A loss that takes weights multiplies by `weighted`, and divides by the number of rows, not by the weights' sum.
        """

    def counted(self, batch: Mapping[str, Tensor], label_B: Tensor) -> Tensor:
        """1 for the rows that the loss is a mean over, 0 for the others, float `[B]`."""
        return torch.ones_like(label_B)


class ProbabilityCorrection(Correction):
    """The correction of a probability's loss."""

    def loss(self, score: Score, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(score, LogProbability)
        return self.of_probability(score, label_B, batch, logits)

    @abstractmethod
    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        """`loss` of a probability."""


@dataclass(frozen=True)
class Output:
    """One task of the model. `label`: columns whose AND it estimates; `space`: columns whose AND selects impressions.

    `trained`: it has a loss of its own, over its space (over all impressions if that is empty). `importance`: label
    columns with a factor; the loss of an impression is multiplied by the largest factor among the columns that are 1;
    the factor is 1 if there is none. `correction` replaces the loss, which then ignores the space and the importance.
    """

    name: str
    kind: TaskKind
    label: tuple[str, ...]
    space: tuple[str, ...] = ()
    trained: bool = True
    importance: tuple[tuple[str, float], ...] = ()
    correction: Correction | None = None

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of the output's scores in the graph."""
        return self.kind.names(self.name)


class TaskStructure(ABC):
    """Computes task scores from the heads' logits.

    `numbers`: columns of the item's raw numerics that it reads too, by the name under which they are among the logits.
    """

    heads: tuple[str, ...]
    outputs: tuple[Output, ...]
    width: int = 1  # logits per head
    numbers: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits by head, `[n]` or `[n, width]` -> scores by output."""


class TaskOptions(Options, ABC):
    """A task in the section `tasks` of a recipe; a subclass adds `type`, the name of its structure in the recipe."""

    type: str

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The label columns that the task reads, in order."""

    @property
    def label_kinds(self) -> dict[str, TaskKind]:
        """The values that each label column may hold: 0 or 1 unless a task says otherwise."""
        return dict.fromkeys(self.labels, PROBABILITY)

    @abstractmethod
    def build(self, schema: FeatureSchema) -> TaskStructure:
        """The task structure. Raises RecipeError if the task names a feature that cannot serve it."""
