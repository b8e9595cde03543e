"""The mean loss of a task over the impressions of its space."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.kinds import Score
from models.structures.base import Output, weighted

Batch = Mapping[str, Tensor]

# Shape legend: B impressions.


def label_of(batch: Batch, columns: tuple[str, ...]) -> Tensor:
    """The AND (product) of label columns, float `[B]`."""
    label = batch[f"label/{columns[0]}"]
    for column in columns[1:]:
        label = label * batch[f"label/{column}"]
    return label


def counted(batch: Batch, output: Output) -> Tensor:
    """1 for the impressions that the loss of an output is a mean over, 0 for the others, float `[B]`."""
    label_B = label_of(batch, output.label)
    if output.correction is not None:
        return output.correction.counted(batch, label_B)
    return label_of(batch, output.space) if output.space else torch.ones_like(label_B)


def mean_loss(score: Score, batch: Batch, output: Output) -> Tensor:
    """L_k = sum_i d_i w_i loss(i) / sum_i d_i, a scalar, with d = 1 inside the space (PLE, RecSys 2020, equation 9).

    w is the weight over its mean (models/network/weights.py), and 1 without weights.
    """
    loss_B = output.kind.loss(score, label_of(batch, output.label))
    if output.importance:
        factors = [torch.where(batch[f"label/{column}"] > 0, factor, 0.0) for column, factor in output.importance]
        largest_B = torch.stack(factors).amax(0)
        loss_B = loss_B * torch.where(largest_B > 0, largest_B, 1.0)
    loss_B = weighted(loss_B, batch)
    if not output.space:
        return loss_B.mean()
    inside_B = label_of(batch, output.space)
    return (loss_B * inside_B).sum() / inside_B.sum().clamp(min=1)
