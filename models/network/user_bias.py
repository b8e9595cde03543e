"""The user-bias tower: the addend to the logits that depends only on the user, so that the main network learns the
order.

Whatever depends on the user and not on the candidate moves every score of a ranking by the same amount. It decides AUC
over all impressions, but no order inside a list. The tower has its own encoders, because the behaviour sequence mostly
shows how active the user is, and a main network that reads it learns mostly that. The tower is served, because the
probabilities need it, and computes one row per ranking.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.encoders.base import Encoder, View
from models.errors import RecipeError
from models.layers.linear import PartLinear
from models.recipe.sections.model import UserBiasSection

# Shape legend: B impressions (1 at serving), H heads, W logits per head, X hidden width.


class UserBias(nn.Module):
    """A network on the user's features and on encoded behaviours, with one addend per logit."""

    def __init__(
        self, user_width: int, encoders: Sequence[Encoder], hidden: int, heads: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.width = width
        self.encoders = nn.ModuleList(encoders)
        widths = [user_width] if user_width else []
        self.first = PartLinear([*widths, *(encoder.out_width for encoder in encoders)], hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(hidden, heads * width)

    def forward(self, user_BU: Tensor | None, view: View | None) -> Tensor:
        """The user's vector, None without user features, and the view of the encoders -> `[H, B, W]`."""
        parts = [] if user_BU is None else [user_BU]
        hidden_BX = self.dropout(torch.relu(self.first([*parts, *(encoder(view) for encoder in self.encoders)])))
        return self.last(hidden_BX).unflatten(-1, (-1, self.width)).transpose(0, 1)


def build_user_bias(
    section: UserBiasSection, user_width: int, encoders: Sequence[Encoder], logits: tuple[int, int], dropout: float
) -> UserBias:
    """Build the tower over the user's vector and the section's encoders; `logits`: heads, and logits per head.

    Raises RecipeError if an encoder reads the candidate, or if there is nothing to read.
    """
    for options, encoder in zip(section.encoders, encoders, strict=bool(encoders)):
        if encoder.sees_candidate:
            problem = f"'{options.type}' reads the candidate, but the user-bias tower reads only the user"
            raise RecipeError(f"model.user_bias.encoders: {problem}", ("model", "user_bias", "encoders"), options.type)
    if not user_width and not encoders:
        problem = "the schema has no user feature, and no encoder reads behaviours for it"
        raise RecipeError(f"model.user_bias: {problem}", ("model", "user_bias"))
    heads, width = logits
    return UserBias(user_width, encoders, section.hidden, heads, width, dropout)
