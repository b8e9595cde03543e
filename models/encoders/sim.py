"""SIM with hard search: of a long sequence, the candidate reads the behaviours of its own category.

Qi et al., Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate Prediction,
CIKM 2020 (arXiv 2006.05639). The general search unit keeps the behaviours b whose category is the candidate's, here
the newest `top` of them; the exact search unit attends to them, with e_a the candidate and z_b = [e_b; e_t] a behaviour
with the time since it:
  head_i = sum_b softmax over b of <W_bi z_b, W_ai e_a> z_b;  U = concat(head_1, ..., head_q)
Beside U stand the newest `recent` behaviours of any category, read by DIN, where the paper has DIEN.
A value that the vocabulary does not have is no category. A feature with several values matches by any of them. The age
of a behaviour, which is one of its properties, is the time. Without a match U is zero.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from features.nearest import nearest
from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, Keys, View
from models.encoders.din import Din
from models.encoders.matching import have_same_value
from models.errors import RecipeError
from models.options import Column, Hidden

# Shape legend: B candidates (or impressions), L behaviours, T the ones that are searched, G = I + P, I item part of a
# behaviour, P its property part, V values of the category, Q attention heads, X width of a head.


class SimOptions(EncoderOptions):
    """`category`: an item feature of the behaviours with keys; by default the first one that is not the item's id.

    `top`: how many behaviours of the candidate's category are read; `recent`: how many of any category, 0 for none.
    `width` of each of the `attention_heads`; `hidden`: of DIN's network for the recent ones.
    """

    type: Literal["sim"]
    category: Column | None = None
    top: Annotated[int, Field(ge=1, le=1000)] = 50
    attention_heads: Annotated[int, Field(ge=1, le=16)] = 2
    width: Annotated[int, Field(ge=1, le=512)] = 16
    recent: Annotated[int, Field(ge=0, le=1000)] = 20
    hidden: Hidden = (32, 16)

    def build(self, spec: EncoderSpec) -> "Sim":
        return Sim(spec, self, _category_columns(self.category, spec.key_columns))


def _category_columns(category: str | None, columns: Mapping[str, slice]) -> slice:
    """The columns of the category in the keys. Raises RecipeError if the behaviours have no such feature."""
    named = category or next(iter(columns), "")
    if not columns:
        problem = "'sim' searches by a category; name one in features.behaviour.item_features"
        raise RecipeError(f"model.encoders: {problem}", ("model", "encoders"))
    if named not in columns:
        problem = f"'{named}' is no item feature of the behaviours with keys{nearest(named, columns)}"
        raise RecipeError(f"model.encoders: {problem}", ("model", "encoders"), named)
    return columns[named]


class Sim(Encoder):
    """The search by category, the attention over its result, and DIN over the newest behaviours."""

    sees_candidate = True
    reads_all = False

    def __init__(self, spec: EncoderSpec, options: SimOptions, category: slice) -> None:
        super().__init__()
        width = spec.item_width + spec.property_width
        heads = options.attention_heads
        self.category = category
        self.first_known_row = spec.first_known_row
        self.top = options.top
        self.recent = options.recent
        self.heads = heads
        self.of_behaviour = nn.Linear(width, heads * options.width, bias=False)
        self.of_candidate = nn.Linear(spec.item_width, heads * options.width, bias=False)
        self.short: Din | None = None
        if options.recent:
            self.short = Din(spec.item_width, spec.property_width, options.hidden, "prelu", softmax=False)
        self.out_width = heads * width + (self.short.out_width if self.short else 0)

    def matches(self, keys: Keys, mask_BL: Tensor) -> Tensor:
        """Whether a behaviour has the candidate's category, bool `[B, L]`."""
        return have_same_value(keys, self.category, self.first_known_row, mask_BL)

    def reads(self, keys: Keys, mask_BL: Tensor) -> Tensor:
        """The places that are searched or recent, bool `[B, L]`; the recent ones also where the mask is False.

        Without those, the places of a shortened sequence would move, and older behaviours become recent.
        """
        match_BL = self.matches(keys, mask_BL)
        is_recent_L = torch.arange(mask_BL.shape[1], device=mask_BL.device) < self.recent
        return (match_BL & (match_BL.cumsum(1) <= self.top)) | is_recent_L

    def searched(self, match_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The places of the newest `top` matches `[B, T]`, and whether there is one; places may lie behind L."""
        # As many places of padding as are searched, so that there are enough of any length.
        padded_BL = torch.cat([match_BL, match_BL.new_zeros(match_BL.shape[0], self.top)], 1)
        places_L = torch.arange(padded_BL.shape[1], device=padded_BL.device)
        newest_first_BL = padded_BL * (padded_BL.shape[1] - places_L).to(torch.float32)
        values_BT, places_BT = newest_first_BL.topk(self.top, dim=1)
        return places_BT, values_BT > 0

    def attention(self, view: View) -> Tensor:
        """U `[B, Q G]`."""
        assert view.keys is not None
        places_BT, is_match_BT = self.searched(self.matches(view.keys, view.mask))
        # Padding for the places behind L. What is of the behaviours is computed before it is repeated per candidate.
        behaviours_BLG = nn.functional.pad(view.behaviours, (0, 0, 0, self.top))
        keys_BLK = self.of_behaviour(behaviours_BLG)
        z_BTG = _picked(behaviours_BLG, places_BT)
        keys_BTQX = _picked(keys_BLK, places_BT).unflatten(-1, (self.heads, -1))
        query_BQX = self.of_candidate(view.target).unflatten(-1, (self.heads, -1))
        raw_BQT = (keys_BTQX.transpose(1, 2) @ query_BQX.unsqueeze(-1))[..., 0]
        is_match_B1T = is_match_BT.unsqueeze(1)
        weights_BQT = torch.softmax(raw_BQT.masked_fill(~is_match_B1T, -1e9), -1) * is_match_B1T
        return (weights_BQT @ z_BTG).flatten(-2)

    def forward(self, view: View) -> Tensor:
        """A view of B impressions, or of one request and B candidates -> `[B, Q G]`, with DIN's `[B, G]` behind it."""
        interest_BU = self.attention(view)
        if self.short is None:
            return interest_BU
        newest = view._replace(behaviours=view.behaviours[:, : self.recent], mask=view.mask[:, : self.recent])
        return torch.cat([interest_BU, self.short(newest)], -1)


def _picked(behaviours_BLG: Tensor, places_BT: Tensor) -> Tensor:
    """The behaviours at some places, `[B, T, G]`; those of one user for all candidates if the first has one row."""
    if behaviours_BLG.shape[0] == 1:
        return nn.functional.embedding(places_BT, behaviours_BLG[0])
    rows_B1 = torch.arange(places_BT.shape[0], device=places_BT.device).unsqueeze(-1)
    return behaviours_BLG[rows_B1, places_BT]
