"""Several sequences of one user, such as clicks, carts and purchases: each has its actions, length and encoders.

All come from the one list of behaviours that a ranking reads. A sequence is the newest `length` of those whose action
is one of its own, so behaviours of other actions push none of them out. The graph itself selects them by the action, so
training and serving select alike, and the store and the log know one list only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from features import keys_of_column
from models.data.encoding.encoding import Encoding
from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, Keys, View
from models.errors import RecipeError
from models.recipe.sections.model import ModelSection

# Shape legend: B impressions or candidates, L behaviours, N = min(L, length) behaviours of a sequence, G width of one.


class SequenceReader(Encoder):
    """An encoder over one of several sequences."""

    reads_all = False

    def __init__(self, name: str, actions: Sequence[int], length: int, encoder: Encoder) -> None:
        """`actions`: the rows of the sequence's actions in the vocabulary."""
        super().__init__()
        self.name = name
        self.actions = tuple(actions)
        self.length = length
        self.encoder = encoder
        self.sees_candidate = encoder.sees_candidate
        self.is_user_item = encoder.is_user_item
        self.out_width = encoder.out_width

    def members(self, keys: Keys, mask_BL: Tensor) -> Tensor:
        """Which behaviours have one of the actions, bool `[B or 1, L]`."""
        assert keys.actions is not None
        is_member_BL = torch.zeros_like(mask_BL)
        for action in self.actions:
            is_member_BL = is_member_BL | (keys.actions == action)
        return is_member_BL & mask_BL

    def reads(self, keys: Keys, mask_BL: Tensor) -> Tensor:
        """The newest `length` behaviours of the sequence, bool `[B, L]`."""
        is_member_BL = self.members(keys, mask_BL)
        return is_member_BL & (is_member_BL.cumsum(1) <= self.length)

    def selected(self, view: View) -> View:
        """The view of the sequence alone: its behaviours `[B or 1, N, G]`, newest first, then padding."""
        assert view.keys is not None
        is_member_BL = self.members(view.keys, view.mask)
        # The newest member has the largest number, and what is no member has 0. Distinct numbers keep the order.
        places_L = torch.arange(view.mask.shape[1], device=view.mask.device)
        newest_first_BL = is_member_BL * (view.mask.shape[1] - places_L).to(torch.float32)
        values_BL, order_BL = newest_first_BL.sort(dim=1, descending=True)
        mask_BN = values_BL[:, : self.length] > 0
        places_BN = order_BL[:, : self.length]
        keys = Keys(_at(view.keys.behaviours, places_BN), view.keys.target)
        age_BN = None if view.age_s is None else _at(view.age_s.unsqueeze(-1), places_BN).squeeze(-1)
        return view._replace(behaviours=_at(view.behaviours, places_BN), mask=mask_BN, keys=keys, age_s=age_BN)

    def forward(self, view: View) -> Tensor:
        """A view of all behaviours -> what the encoder makes of the sequence, `[B or 1, out_width]`."""
        encoded: Tensor = self.encoder(self.selected(view))
        return encoded


def _at(values_BLG: Tensor, places_BN: Tensor) -> Tensor:
    """`[B or 1, L, G]` -> `[B or 1, N, G]`."""
    if values_BLG.shape[0] == 1:
        return values_BLG[0].index_select(0, places_BN[0]).unsqueeze(0)
    return values_BLG.gather(1, places_BN.unsqueeze(-1).expand(-1, -1, values_BLG.shape[-1]))


def build_encoders(
    section: ModelSection, default: EncoderOptions, spec: EncoderSpec | None, encoding: Encoding
) -> list[Encoder]:
    """Build the untrained encoders of a recipe: those of all behaviours, then those of each sequence.

    `default`: the encoder of the architecture. `spec` is None without behaviours. Raises RecipeError if a sequence does
    not fit the behaviours.
    """
    behaviour = encoding.schema.behaviour
    if spec is None or behaviour is None:
        if section.sequences:
            problem = "there are no behaviours to take sequences from; give features.behaviour"
            raise RecipeError(f"model.sequences: {problem}", ("model", "sequences"))
        return []
    options = section.encoders
    if options is None:
        options = () if section.sequences else (default,)
    encoders = [option.build(spec) for option in options]
    for name, sequence in section.sequences.items():
        place = ("model", "sequences", name)
        if sequence.length > behaviour.max_length:
            problem = f"{sequence.length} is more than features.behaviour.max_length, {behaviour.max_length}"
            raise RecipeError(f"model.sequences.{name}.length: {problem}", (*place, "length"))
        try:
            rows = rows_of_actions(sequence.actions, encoding, behaviour.action_vocabulary)
        except ValueError as error:
            raise RecipeError(f"model.sequences.{name}.actions: {error}", (*place, "actions")) from None
        encoders += [SequenceReader(name, rows, sequence.length, option.build(spec)) for option in sequence.encoders]
    return encoders


def rows_of_actions(actions: Sequence[str], encoding: Encoding, vocabulary: str) -> list[int]:
    """The rows of some actions in the vocabulary. Raises ValueError for an action without a row of its own."""
    if vocabulary in encoding.vocabulary.buckets:
        raise ValueError(f"'{vocabulary}' is in model.embedding.hash_buckets, where several actions share a row")
    keys = keys_of_column(vocabulary, actions, "action")
    rows: list[int] = encoding.vocabulary.rows_of_columns(keys[:, None], (vocabulary,))[:, 0].tolist()
    for action, row in zip(actions, rows, strict=True):
        if row == encoding.vocabulary.unknown_rows[vocabulary]:
            raise ValueError(f"no behaviour of the training part, or fewer than min_count, has the action '{action}'")
    return rows


def described(encoder: nn.Module) -> str:
    """The name of an encoder in the manifest and the report, with that of its sequence."""
    if isinstance(encoder, SequenceReader):
        return f"{described(encoder.encoder)}({encoder.name})"
    return type(encoder).__name__.lower()
