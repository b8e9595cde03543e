"""Owns masked mean pooling of the behaviour sequence; it does not look at the candidate, so it runs once per request."""

from torch import Tensor, nn


class Pooling(nn.Module):
    """The mean over real behaviours; a zero vector where there are none."""

    def __init__(self, item_width: int, property_width: int) -> None:
        super().__init__()
        self.out_width = item_width + property_width

    def forward(self, behaviours_BLG: Tensor, mask_BL: Tensor, target_BG: Tensor) -> Tensor:
        """Behaviours `[B or 1, L, G]`, mask bool `[B or 1, L]` -> `[B or 1, G]`; `target_BG` is not used."""
        kept_BL1 = mask_BL.to(behaviours_BLG.dtype).unsqueeze(-1)
        return (behaviours_BLG * kept_BL1).sum(1) / kept_BL1.sum(1).clamp(min=1)
