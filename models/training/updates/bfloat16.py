"""Keeps embedding tables in bfloat16 while a run trains: half the memory, with the 8 bits of precision that it has.

A step changes a weight by less than the distance to the next bfloat16 number as soon as the learning rate is small.
Rounding to the nearest number would lose such steps, so a number is rounded up or down at random, with the probability
that makes its mean right: Zhang, Khoram and Li, "Training with Low-precision Embedding Tables" (NeurIPS workshop 2018).
"""

import torch
from torch import Tensor

from models.network.model import MultiTaskModel

_LOST_BITS = 16


def tables_to(model: MultiTaskModel, dtype: torch.dtype) -> None:
    """Convert the vocabulary's tables of a model, in place; other weights stay as they are."""
    for table in model.inputs.tables:
        table.weight.data = table.weight.data.to(dtype)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values float32 as `dtype`: themselves if it is float32, else bfloat16, rounded at random by torch's generator."""
    if dtype == torch.float32:
        return values
    # Bits that float32 has beyond bfloat16 are a fraction of the distance between two numbers: a random fraction is
    # added, and what is left of them is cut off.
    fraction = torch.randint(1 << _LOST_BITS, values.shape, dtype=torch.int32, device=values.device)
    bits = (values.contiguous().view(torch.int32) + fraction) & -(1 << _LOST_BITS)
    return bits.view(torch.float32).to(dtype)
