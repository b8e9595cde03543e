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
    """The lists of some impressions: `place` int64 `[B]` is the list of each impression, from 0 to `count` - 1.

    `weight` float `[B]`: an impression of weight w counts in its list as w impressions; None if all weights are 1.
    """

    place: Tensor
    count: int
    weight: Tensor | None = None

    @classmethod
    def of(cls, group_B: Tensor, weight_B: Tensor | None = None) -> "Lists":
        """Number the lists: `group_B`, int64 `[B]`, has the user or request of each row."""
        names, place = torch.unique(group_B, return_inverse=True)
        return cls(place, len(names), weight_B)

    def weighted(self, values_B: Tensor) -> Tensor:
        """Values `[B]` times the weights of their impressions."""
        return values_B if self.weight is None else values_B * self.weight

    def sums(self, values_B: Tensor) -> Tensor:
        """The weighted sum of the values of each list `[G]`."""
        return values_B.new_zeros(self.count).index_add(0, self.place, self.weighted(values_B))

    def log_sum_exp(self, values_B: Tensor) -> Tensor:
        """log sum w exp of the values of each list `[G]`; the largest value is subtracted first, so that nothing
        overflows. A list whose weights are all 0 has a finite value too.
        """
        if self.weight is not None:
            values_B = values_B + torch.log(self.weight)
        least = values_B.new_full((self.count,), -torch.inf)
        largest_G = least.scatter_reduce(0, self.place, values_B.detach(), "amax")
        largest_G = torch.where(torch.isfinite(largest_G), largest_G, 0.0)
        powers_B = torch.exp(values_B - largest_G[self.place])
        sum_G = values_B.new_zeros(self.count).index_add(0, self.place, powers_B)
        return largest_G + torch.log(sum_G.clamp(min=torch.finfo(sum_G.dtype).tiny))

    def mean(self, values_G: Tensor, label_B: Tensor) -> Tensor:
        """The mean over the lists, each weighted by its impressions, as in GAUC.

        It is the sum over all impressions of their weight times the value of their list, over their number.

        A list with equal labels has no order to learn and counts as 0. So a rare label, which few lists of a batch
        contain, does not outweigh a frequent one.
        """
        size_G = self.sums(torch.ones_like(label_B))
        ordered_G = (self.sums(label_B) > 0) & (self.sums(1 - label_B) > 0)
        values_G = torch.where(ordered_G, values_G, 0.0)
        return (values_G * size_G).sum() / max(len(label_B), 1)


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


def quotient(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight, and 0 where the weight is 0."""
    return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1.0), 0.0)


def log_odds(p: LogProbability) -> Tensor:
    """log(p / (1 - p)) `[B]`: the logit of an independent task; a product of probabilities is ordered by it too."""
    return p.yes - p.no
