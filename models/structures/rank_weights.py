"""Owns DUPN's learning to rank: the user's representation decides how much each ranking feature of a candidate weighs.

Ni et al., KDD 2018 (arXiv 1805.10727), section 4.5.2: L = sum_i n_i log(1 + exp(-y_i weight(rep_i)^T r_i)), y in {-1, 1}, r the
candidate's ranking features (26 in the paper), n_i by the type of behaviour. It is the log loss of sigmoid(weight(rep)^T r), weighted by n_i.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from features import FeatureSchema
from models.recipe.recipe import RankWeightsTask
from models.structures.base import Output
from models.structures.representation import Candidates, OfRepresentation, item_numeric_column, small_network


class RankWeights(OfRepresentation):
    """Output `name` = sigmoid(weight(rep)^T r): a ranking score; the weights n_i move it away from the label's rate."""

    def __init__(self, task: RankWeightsTask, schema: FeatureSchema) -> None:
        super().__init__(Output(task.name, "probability", (task.label,), importance=tuple(task.importance.items())))
        self.columns = [item_numeric_column(schema.item, name, task.name) for name in task.features]

    def network(self, width: int, hidden: Sequence[int]) -> nn.Module:
        return Weigh(width, hidden, self.columns)


class Weigh(nn.Module):
    """weight(rep)^T r over the scaled features r; the weights are computed once per request."""

    columns: Tensor

    def __init__(self, width: int, hidden: Sequence[int], columns: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(list(columns)), persistent=False)
        self.weight = small_network((width, *hidden, len(columns)))

    def forward(self, representation_BR: Tensor, candidates: Candidates) -> Tensor:
        """`[B or 1, R]` -> a logit `[B]`."""
        return (self.weight(representation_BR) * candidates.scaled[..., self.columns]).sum(-1)
