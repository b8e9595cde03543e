"""JRC: an output is a classifier over labels and a density over the list at once.

Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model, KDD 2023 (arXiv
2208.06164), equations 9 to 12. The model has two logits f(x)[0] and f(x)[1]; p(y | x) is their softmax, and within a
list z p(x | y, z) = exp(f(x)[y]) / sum_{x' in z} exp(f(x')[y]). The loss is alpha times the log loss plus (1 - alpha)
times the mean of -log p(x | y, z); here the log loss counts once and `weight` is (1 - alpha) / alpha.

Two logits are equivalent to a probability and a density: f(x)[y] = log p(y | x) + z(x) with z = log sum_y exp(f(x)[y]).
So any output can have the loss, even a product of probabilities. z does not change p, and is computed by a small
network that is not served (models/network/objective.py).
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from models.layers.probability import LogProbability
from models.list_losses.base import ListLossOptions, Lists

# Shape legend: B impressions, G lists.


class JrcOptions(ListLossOptions):
    """The hybrid of classification and density over a list (KDD 2023)."""

    type: Literal["jrc"]
    needs_density: ClassVar[bool] = True

    def loss(self, p: LogProbability, label_B: Tensor, lists: Lists, density_B: Tensor | None) -> Tensor:
        assert density_B is not None
        if not len(label_B):
            return p.yes.sum()
        positive_B = p.yes + density_B
        negative_B = p.no + density_B
        of_positive_B = positive_B - lists.log_sum_exp(positive_B)[lists.place]
        of_negative_B = negative_B - lists.log_sum_exp(negative_B)[lists.place]
        return -lists.weighted(torch.where(label_B > 0, of_positive_B, of_negative_B)).mean()
