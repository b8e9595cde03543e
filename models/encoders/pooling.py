"""Masked mean pooling of the behaviour sequence. It does not read the candidate, so it runs once per request."""

from typing import Literal

import torch
from torch import Tensor

from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, View

COUNT_SCALE = 4.0  # brings log(1 + count) of usual lengths near 1, like the other inputs

# Shape legend: B impressions or requests, L behaviours, G width of a behaviour.


class PoolingOptions(EncoderOptions):
    """Pooling has no options."""

    type: Literal["pooling"]

    def build(self, spec: EncoderSpec) -> "Pooling":
        return Pooling(spec.item_width, spec.property_width)


class Pooling(Encoder):
    """The mean over real behaviours and log(1 + their count); zeros without behaviours.

    The mean of the action embeddings says how often the user takes each action; the count says how far to trust it.
    """

    sees_candidate = False

    def __init__(self, item_width: int, property_width: int) -> None:
        super().__init__()
        self.out_width = item_width + property_width + 1

    def forward(self, view: View) -> Tensor:
        """Behaviours `[B or 1, L, G]` -> `[B or 1, G + 1]`."""
        real_BL1 = view.mask.to(view.behaviours.dtype).unsqueeze(-1)
        count_B1 = real_BL1.sum(1)
        mean_BG = (view.behaviours * real_BL1).sum(1) / count_B1.clamp(min=1)
        return torch.cat([mean_BG, torch.log1p(count_B1) / COUNT_SCALE], -1)
