"""Holds what all sequence encoders have in common: options, widths and input."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from models.options import Options

# Shape legend: B candidates (or impressions), L behaviours, I item part of a behaviour, P its property part,
# U user, K context, R key columns of the item features that a behaviour has.


class Keys(NamedTuple):
    """The embedding rows of what behaviours and candidates have in common, int64: for an encoder that compares values.

    `behaviours` `[B or 1, L, R]` and `target` `[B, R]` have the same columns. `actions` `[B or 1, L]`: the rows of the
    behaviours' actions, as the vocabulary numbers them.
    """

    behaviours: Tensor
    target: Tensor
    actions: Tensor | None = None


class View(NamedTuple):
    """The input of an encoder: one request per row, or one request (a leading axis of 1) for all candidates of
    `target`.

    `behaviours` `[B or 1, L, I + P]`, newest first: the item part, then the property part (action, scene, age); `mask`
    bool `[B or 1, L]`, False for padding; `target` `[B, I]`, the candidate in the form of a behaviour's item part;
    `user` `[B or 1, U]` and `context` `[B or 1, K]`, None if the schema has none; `keys`: the rows of the item parts;
    `age_s` `[B or 1, L]`: the ages of the behaviours in seconds, NaN if unknown.
    """

    behaviours: Tensor
    mask: Tensor
    target: Tensor
    user: Tensor | None = None
    context: Tensor | None = None
    keys: Keys | None = None
    age_s: Tensor | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """The widths that an encoder is built for; `user_width` and `context_width` are 0 if the schema has none.

    `key_columns`: by item feature of the behaviours, its columns in `Keys`, the item's id last. Rows below
    `first_known_row` are missing or unknown values.
    """

    item_width: int
    property_width: int
    user_width: int = 0
    context_width: int = 0
    key_columns: Mapping[str, slice] = field(default_factory=dict)
    first_known_row: int = 1


class Encoder(nn.Module, ABC):
    """Encodes a behaviour sequence as one vector of `out_width`: one per request, or per candidate if it
    `sees_candidate`. One that does not read all behaviours has `reads_all` False and says which. One whose numbers are
    user x item features has `is_user_item` True.
    """

    sees_candidate: bool
    out_width: int
    reads_all: bool = True
    is_user_item: bool = False

    def reads(self, keys: Keys, mask_BL: Tensor) -> Tensor:
        """Which behaviours the encoder reads, bool `[B, L]`, of those that `mask_BL` says are real."""
        return mask_BL

    @abstractmethod
    def forward(self, view: View) -> Tensor:
        """`[B, out_width]`, or `[1, out_width]` for a view of one request if the encoder does not see the candidate."""


class EncoderOptions(Options, ABC):
    """The options of one encoder in `model.encoders` of a recipe; a subclass adds `type`, its name in the recipe."""

    type: str

    @abstractmethod
    def build(self, spec: EncoderSpec) -> Encoder:
        """Build the untrained network."""
