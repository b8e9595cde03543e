"""Defines what all list losses have in common: options, the lists of a batch, and sums over lists."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.layers.probability import LogProbability
from models.options import Options

# Shape legend: B impressions, G lists.


@dataclass(frozen=True)
class Lists:
    """The lists of some impressions: `place` int64 `[B]` is the list of each impression, from 0 to `count` - 1."""

    place: Tensor
    count: int

    @classmethod
    def of(cls, group_B: Tensor) -> "Lists":
        """Number the lists: `group_B`, int64 `[B]`, has the user or request of each row."""
        names, place = torch.unique(group_B, return_inverse=True)
        return cls(place, len(names))

    def sums(self, values_B: Tensor) -> Tensor:
        """The sum of the values of each list `[G]`."""
        return values_B.new_zeros(self.count).index_add(0, self.place, values_B)

    def log_sum_exp(self, values_B: Tensor) -> Tensor:
        """log sum exp of the values of each list `[G]`; the largest value is subtracted first, so that nothing
        overflows.
        """
        least = values_B.new_full((self.count,), -torch.inf)
        largest_G = least.scatter_reduce(0, self.place, values_B.detach(), "amax")
        return largest_G + torch.log(self.sums(torch.exp(values_B - largest_G[self.place])))

    def mean(self, values_G: Tensor, label_B: Tensor) -> Tensor:
        """The mean over the lists, each weighted by its impressions, as in GAUC.

        A list with equal labels has no order to learn and counts as 0. So a rare label, which few lists of a batch
        contain, does not outweigh a frequent one.
        """
        size_G = self.sums(torch.ones_like(label_B))
        positives_G = self.sums(label_B)
        values_G = torch.where((positives_G > 0) & (positives_G < size_G), values_G, 0.0)
        return (values_G * size_G).sum() / size_G.sum().clamp(min=1)


class ListLossOptions(Options, ABC):
    """A list loss in `training.list_losses` of a recipe; a subclass adds `type`, its name in the recipe.

    The loss of the output is its log loss plus `weight` times the list loss. The log loss keeps the scores
    probabilities; the list loss improves their order inside a list.
    """

    type: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    needs_density: ClassVar[bool] = False  # it reads a second logit per output, which is not served

    @abstractmethod
    def loss(self, p: LogProbability, label_B: Tensor, lists: Lists, density_B: Tensor | None) -> Tensor:
        """The loss of a batch, a scalar: probabilities, labels of 0 and 1, and the second logits, `[B]` each."""


def log_odds(p: LogProbability) -> Tensor:
    """log(p / (1 - p)) `[B]`: the logit of an independent task; a product of probabilities is ordered by it too."""
    return p.yes - p.no
