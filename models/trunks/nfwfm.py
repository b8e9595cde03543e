"""Meitu's multi-task NFwFM: field-pair-weighted interactions, then hidden layers that all tasks share.

After Chen et al. of Meitu, Multi-task learning in Meitu's recommendation ranking, 2019. Its pieces: FwFM's pair weights
(Pan et al., Field-weighted Factorization Machines, WWW 2018, equation 4) and its linear term by field,
sum_i x_i <v_i, w_F(i)> (section 3.3); NFM's bi-interaction vector into a network (He and Chua, Neural Factorization
Machines, SIGIR 2017, equations 2 to 4):
  f_BI(x) = sum_{i<j} r_F(i)F(j) (x_i v_i) * (x_j v_j);  y_k = w0_k + w_k linear(x) + h_k^T MLP(f_BI(x))
The last layer (w0_k, w_k, h_k) is the head's tower, so a recipe gives it no hidden layer.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.errors import RecipeError
from models.layers.input_part import InputPart
from models.layers.linear import GroupedMlp, PartLinear
from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates (1 for user parts at serving), F fields (U of the user, I of the item),
# D embedding width, X hidden width.


class NfwfmOptions(TrunkOptions):
    """`hidden`: the layers above the interactions, which all tasks share.

    Give `tower_hidden: []`, so that the tasks split at the last layer.
    """

    type: Literal["nfwfm"]
    hidden: Hidden = (128, 64)

    def build(self, spec: TrunkSpec) -> "Nfwfm":
        return Nfwfm(spec.parts, self.hidden, spec.dropout)


class Fields(nn.Module):
    """The fields of one input part (a feature group or an encoder's vector) as vectors x_i v_i.

    An embedding is a field as it is, a number is multiplied by a vector of its own, an encoder's vector is mapped to
    one field.
    """

    def __init__(self, part: InputPart) -> None:
        super().__init__()
        self.sizes = [part.embedded * part.dim, part.numerics, part.binned * part.dim]
        self.dim = part.dim
        whole = not sum(self.sizes)
        if not whole and sum(self.sizes) != part.width:
            problem = "the trunk 'nfwfm' multiplies embeddings with one another, so they have one width"
            raise RecipeError(f"model.embedding.widths: {problem}", ("model", "embedding", "widths"))
        self.fields = 1 if whole else part.embedded + part.numerics + part.binned
        self.of_whole = nn.Linear(part.width, part.dim) if whole else None
        self.of_numerics = (
            nn.Parameter(torch.empty(part.numerics, part.dim).normal_(std=0.1)) if part.numerics else None
        )

    def forward(self, part: Tensor) -> Tensor:
        """`[B, width]` -> `[B, F, D]`."""
        if self.of_whole is not None:
            return self.of_whole(part).unsqueeze(-2)
        embedded, numerics, binned = part.split(self.sizes, -1)
        pieces = [p.unflatten(-1, (-1, self.dim)) for p in (embedded, binned) if p.shape[-1]]
        if self.of_numerics is not None:
            pieces.append(numerics.unsqueeze(-1) * self.of_numerics)
        return torch.cat(pieces, -2)


class PairWeighted(nn.Module):
    """f_BI: one weight per pair of fields, all 1 at the start (then it is NFM's).

    The sum over pairs is split by owner, so that user-user pairs and the user's half of user-item pairs are computed
    once per request.
    """

    def __init__(self, user_fields: int, item_fields: int) -> None:
        super().__init__()
        self.user_user, self.item_item = (
            nn.Parameter(torch.ones(n * (n - 1) // 2)) if n > 1 else None for n in (user_fields, item_fields)
        )
        self.item_user = nn.Parameter(torch.ones(item_fields, user_fields)) if item_fields and user_fields else None

    def forward(self, user_BUD: Tensor | None, item_BID: Tensor | None) -> Tensor:
        """Fields of the user `[B or 1, U, D]` and of the candidate `[B, I, D]`, or None -> `[B, D]`."""
        terms = []
        if user_BUD is not None and self.user_user is not None:
            terms.append(_within(user_BUD, self.user_user))
        if item_BID is not None and self.item_item is not None:
            terms.append(_within(item_BID, self.item_item))
        if user_BUD is not None and item_BID is not None and self.item_user is not None:
            terms.append((item_BID * (self.item_user @ user_BUD)).sum(-2))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def _within(v_BFD: Tensor, pairs: Tensor) -> Tensor:
    """sum_{i<j} r_ij v_i * v_j = sum_i v_i * (R v)_i with the weights r above R's diagonal -> `[B, D]`."""
    n = v_BFD.shape[-2]
    above = torch.triu_indices(n, n, offset=1)
    weights_FF = pairs.new_zeros(n, n).index_put((above[0], above[1]), pairs)
    return (v_BFD * (weights_FF @ v_BFD)).sum(-2)


class Nfwfm(Trunk):
    """The last shared hidden layer and the linear term, side by side."""

    def __init__(self, parts: Sequence[InputPart], hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        fields = [Fields(part) for part in parts]
        self.fields = nn.ModuleList(fields)
        self.of_candidate = [part.of_candidate for part in parts]
        user_fields = sum(f.fields for f, part in zip(fields, parts, strict=True) if not part.of_candidate)
        candidate_fields = sum(f.fields for f, part in zip(fields, parts, strict=True) if part.of_candidate)
        self.interaction = PairWeighted(user_fields, candidate_fields)
        self.linear = PartLinear([part.width for part in parts], 1)
        self.network = GroupedMlp(1, (parts[0].dim, *hidden), dropout, last_linear=False)
        self.dropout = nn.Dropout(dropout)
        self.out_width = hidden[-1] + 1

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[1, B, out_width]`, which the towers broadcast."""
        sides: dict[bool, list[Tensor]] = {False: [], True: []}
        for fields, own, part in zip(self.fields, self.of_candidate, inputs.parts, strict=True):
            sides[own].append(fields(part))
        user, item = (torch.cat(vectors, -2) if vectors else None for vectors in sides.values())
        hidden_1BX = self.network(self.dropout(self.interaction(user, item)).unsqueeze(0))
        return torch.cat([hidden_1BX, self.linear(inputs.parts).unsqueeze(0)], -1)
