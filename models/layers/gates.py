"""Owns what gates of several papers share: expert dropout."""

import torch
from torch import Tensor


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
