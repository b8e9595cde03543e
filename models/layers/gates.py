"""Owns what gates of several papers share: expert dropout, and the measures that show a collapse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gating:
    """What a trunk's last gates did with a batch: by head the gate values `[B, E of the head]`, and all experts' outputs `[E, B, X]`."""

    gates: Mapping[str, Tensor]
    experts: Tensor


@runtime_checkable
class Gated(Protocol):
    """A trunk with gates."""

    def gating(self, parts: Sequence[Tensor]) -> Gating: ...


def entropy(gates_BE: Tensor) -> Tensor:
    """Mean over impressions of a gate's entropy as a share of the largest possible: 1 uses all experts alike, 0 one expert each time."""
    if gates_BE.shape[-1] == 1:
        return torch.ones(())
    return torch.special.entr(gates_BE).sum(-1).mean() / math.log(gates_BE.shape[-1])


def similarity(experts_EBX: Tensor) -> Tensor:
    """Cosine between the experts' outputs over a batch `[E, E]`, each unit's mean taken away: 1 for experts that compute the same."""
    centred = (experts_EBX - experts_EBX.mean(1, keepdim=True)).flatten(1)
    unit = torch.nn.functional.normalize(centred, dim=1, eps=1e-12)
    return unit @ unit.T


def drop_experts(gates: Tensor, rate: float) -> Tensor:
    """Each gate value set to 0 with probability `rate`, the rest renormalised; training only, the caller sees to that.

    `gates` `[..., E]` sum to 1 over E. Drawn per example and gate; where every expert is dropped, the largest one is kept.
    Source: Zhao et al., RecSys 2019, section 5.2.4 (against gates that polarise on one expert).
    """
    kept = torch.rand_like(gates) >= rate
    largest = torch.zeros_like(kept).scatter_(-1, gates.argmax(-1, keepdim=True), True)
    kept = torch.where(kept.any(-1, keepdim=True), kept, largest)
    remaining = gates * kept
    return remaining / remaining.sum(-1, keepdim=True)
