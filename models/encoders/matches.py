"""User x item features: how often, and how lately, the user's behaviours had the candidate's own values.

For each named feature, such as the author or the category, over the behaviours b of the sequence that have one of the
candidate's values, with n of them and d_b the age of b in days:
  count = log(1 + n) / 4;  recency = max over b of 1 / (1 + d_b), 0 without such a behaviour
The numbers belong to the pair of user and item. The graph computes them from the behaviours and the candidate, so no
table, no store and no request has them. A value that the vocabulary does not have matches nothing, and a behaviour
without a time counts but is not recent.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from features.nearest import nearest
from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, Keys, View
from models.encoders.matching import have_same_value
from models.encoders.pooling import COUNT_SCALE
from models.errors import RecipeError
from models.options import Column

DAY_S = 86_400.0

# Shape legend: B candidates (or impressions), L behaviours, F features.


class MatchesOptions(EncoderOptions):
    """`features`: item features of the behaviours with keys. Each gives two numbers, a count and a recency."""

    type: Literal["matches"]
    features: Annotated[tuple[Column, ...], Field(min_length=1)]

    def build(self, spec: EncoderSpec) -> "Matches":
        for name in self.features:
            if name not in spec.key_columns:
                problem = f"'{name}' is no item feature of the behaviours with keys{nearest(name, spec.key_columns)}"
                raise RecipeError(f"model.encoders: 'matches': {problem}", ("model",), name)
        return Matches([spec.key_columns[name] for name in self.features], spec.first_known_row)


class Matches(Encoder):
    """The counts of all features, then their recencies; there is nothing to train."""

    sees_candidate = True
    reads_all = False
    is_user_item = True

    def __init__(self, columns: list[slice], first_known_row: int) -> None:
        super().__init__()
        self.columns = columns
        self.first_known_row = first_known_row
        self.out_width = 2 * len(columns)

    def matches(self, keys: Keys, mask_BL: Tensor) -> list[Tensor]:
        """By feature: which behaviours have a value of the candidate, bool `[B, L]`."""
        return [have_same_value(keys, columns, self.first_known_row, mask_BL) for columns in self.columns]

    def reads(self, keys: Keys, mask_BL: Tensor) -> Tensor:
        """The behaviours that match by any feature, bool `[B, L]`."""
        return torch.stack(self.matches(keys, mask_BL)).any(0)

    def forward(self, view: View) -> Tensor:
        """A view of B impressions, or of one request and B candidates -> `[B, 2 F]`."""
        assert view.keys is not None
        assert view.age_s is not None
        matches = self.matches(view.keys, view.mask)
        counts = [torch.log1p(match_BL.to(torch.float32).sum(1)) / COUNT_SCALE for match_BL in matches]
        fresh_BL = torch.where(torch.isnan(view.age_s), 0.0, 1.0 / (1.0 + view.age_s / DAY_S))
        # A place without a match behind the others, because the largest number of no behaviours does not exist.
        none_B1 = fresh_BL.new_zeros(view.target.shape[0], 1)
        recencies = [torch.cat([none_B1, match_BL * fresh_BL], 1).amax(1) for match_BL in matches]
        return torch.stack([*counts, *recencies], -1)
