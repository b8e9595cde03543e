"""Owns masked mean pooling of the behaviour sequence; it does not look at the candidate, so it runs once per request."""

import torch
from torch import Tensor, nn

from models.encoders.view import View

COUNT_SCALE = 4.0  # brings log(1 + count) of usual lengths near 1, like the other inputs


class Pooling(nn.Module):
    """The mean over real behaviours and log(1 + their count); zeros where there are none.

    The mean of the actions' embeddings is how often the user takes each action, and the count says how far to trust it.
    """

    sees_candidate = False

    def __init__(self, item_width: int, property_width: int) -> None:
        super().__init__()
        self.out_width = item_width + property_width + 1

    def forward(self, view: View) -> Tensor:
        """Behaviours `[B or 1, L, G]` -> `[B or 1, G + 1]`."""
        kept_BL1 = view.mask.to(view.behaviours.dtype).unsqueeze(-1)
        count_B1 = kept_BL1.sum(1)
        mean_BG = (view.behaviours * kept_BL1).sum(1) / count_B1.clamp(min=1)
        return torch.cat([mean_BG, torch.log1p(count_B1) / COUNT_SCALE], -1)
