"""Expert dropout, and the measures of collapsed gates or experts, which several papers share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gating:
    """The last gates of a trunk for a batch `[B, E of the head]` by head, and the outputs of all experts `[E,
    B, X]`.
    """

    gates: Mapping[str, Tensor]
    experts: Tensor


def entropy(gates_BE: Tensor) -> Tensor:
    """Mean entropy of a gate's values, divided by the largest possible entropy, a scalar.

    1 means that every expert gets the same weight, 0 that each impression uses one expert.
    """
    if gates_BE.shape[-1] == 1:
        return gates_BE.new_ones(())
    return torch.special.entr(gates_BE).sum(-1).mean() / math.log(gates_BE.shape[-1])


def similarity(experts_EBX: Tensor) -> Tensor:
    """Cosine `[E, E]` between the centred outputs of experts over a batch; 1 means that two experts compute
    the same.
    """
    centred = (experts_EBX - experts_EBX.mean(1, keepdim=True)).flatten(1)
    unit = torch.nn.functional.normalize(centred, dim=1, eps=1e-12)
    return unit @ unit.T


def drop_experts(gates: Tensor, rate: float) -> Tensor:
    """Sets each gate value to 0 with probability `rate` and renormalises the rest; for training only.

    `gates` `[..., E]` sum to 1 over E. The draw is per example and gate; if all experts are dropped, the one with the
    largest weight stays. Source: Zhao et al., RecSys 2019, section 5.2.4 (against gates that polarise on one expert).
    """
    stays = torch.rand_like(gates) >= rate
    largest = torch.zeros_like(stays).scatter_(-1, gates.argmax(-1, keepdim=True), True)
    stays = torch.where(stays.any(-1, keepdim=True), stays, largest)
    remaining = gates * stays
    return remaining / remaining.sum(-1, keepdim=True)
