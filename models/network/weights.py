"""The weight of each impression in the loss of an output: a column of the impressions over its mean.

With w the column and m the mean of w over the training impressions of the output's space, the loss of a batch is

  L = 1/n sum_i (w_i / m) loss(i)   over the n impressions of the space in the batch.

Its expectation over batches is the weighted mean of the loss over the training part, sum_i w_i loss(i) / sum_i w_i.
Dividing by the weights' sum in the batch would bias that by about 1/n, because batches with heavy impressions would
count less. A weight and twice that weight are the same, and parts of a batch add up as they do without weights.

If a run trains on a share r of the impressions without a positive label, w is 1 / r times the column for them and n
counts the impressions that are trained on. The expectation of the weighted sums over the choice of impressions is that
of all impressions (Horvitz and Thompson 1952), for every label at once. A shift of the logits by log r would be exact
for one label alone: beside another one, whether a negative stays depends on the features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.recipe import Recipe

# Shape legend: B impressions.


class Weights:
    """The columns of weights by output, and the weight of a sampled negative.

    `means` is set before training; without an entry a mean is 1.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.column = recipe.data.weight
        self.columns = dict(recipe.data.task_weights)
        self.share = recipe.training.negative_sampling
        self.labels = recipe.binary_columns
        self.means: dict[str, float] = {}

    def column_of(self, output: str) -> str | None:
        """The column of weights that an output's loss reads; None if there is none."""
        return self.columns.get(output, self.column)

    def of(self, batch: Mapping[str, Tensor], output: str) -> Tensor | None:
        """The weight of each impression over its mean, float `[B]`; None if all are 1."""
        weight_B = self.plain(batch, output)
        return None if weight_B is None else weight_B / self.means.get(output, 1.0)

    def plain(self, batch: Mapping[str, Tensor], output: str) -> Tensor | None:
        """The weight of each impression, float `[B]`; None if all are 1."""
        column = self.column_of(output)
        weight_B = None if column is None else batch[f"weight/{column}"]
        if self.share == 1:
            return weight_B
        positive_B = torch.stack([batch[f"label/{label}"] > 0 for label in self.labels]).any(0)
        factor_B = torch.ones_like(batch[f"label/{self.labels[0]}"]).masked_fill(~positive_B, 1 / self.share)
        return factor_B if weight_B is None else weight_B * factor_B
