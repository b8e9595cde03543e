"""The mean loss of a task over the impressions of its space."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.kinds import Score
from models.structures.base import Output

Batch = Mapping[str, Tensor]

# Shape legend: B impressions.


def label_of(batch: Batch, columns: tuple[str, ...]) -> Tensor:
    """The AND (product) of label columns, float `[B]`."""
    label = batch[f"label/{columns[0]}"]
    for column in columns[1:]:
        label = label * batch[f"label/{column}"]
    return label


def impressions_in(batch: Batch, output: Output) -> Tensor:
    """The number of impressions that the mean loss of an output is taken over, a float scalar."""
    if not output.space:
        return torch.ones_like(label_of(batch, output.label)).sum()
    return label_of(batch, output.space).sum()


def mean_loss(score: Score, batch: Batch, output: Output) -> Tensor:
    """L_k = sum_i d_i loss(i) / sum_i d_i, a scalar, with d = 1 inside the space (PLE, RecSys 2020, equation 9)."""
    loss_B = output.kind.loss(score, label_of(batch, output.label))
    if output.importance:
        factors = [torch.where(batch[f"label/{column}"] > 0, factor, 0.0) for column, factor in output.importance]
        largest_B = torch.stack(factors).amax(0)
        loss_B = loss_B * torch.where(largest_B > 0, largest_B, 1.0)
    if not output.space:
        return loss_B.mean()
    inside_B = label_of(batch, output.space)
    return (loss_B * inside_B).sum() / inside_B.sum().clamp(min=1)
