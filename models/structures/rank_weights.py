"""DUPN's learning to rank: the user's representation determines the weight of each ranking feature of a candidate.

Ni et al., KDD 2018 (arXiv 1805.10727), section 4.5.2: L = sum_i n_i log(1 + exp(-y_i weight(rep_i)^T r_i)), y in {-1,
1}, r the ranking features of the candidate (26 in the paper), n_i by the type of behaviour. It is the log loss of
sigmoid(weight(rep)^T r), weighted by n_i.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from features import FeatureSchema
from models.errors import RecipeError
from models.kinds import PROBABILITY
from models.options import Column, Name, Positive
from models.structures.base import Output, TaskOptions
from models.structures.representation import Candidates, OfRepresentation, item_numeric_column, small_network

# Shape legend: B impressions or candidates, R the user's representation.


class RankWeightsOptions(TaskOptions):
    """The user's representation weighs the named numeric item `features`.

    `importance`: label columns with a factor; the loss of an impression is multiplied by the largest factor among the
    columns that are 1; the factor is 1 if there is none. `user_item`: the numbers of the encoders `matches` are ranking
    features too.
    """

    type: Literal["rank_weights"]
    name: Name
    label: Column
    features: Annotated[tuple[Column, ...], Field(min_length=1)]
    importance: dict[Column, Positive] = Field(default_factory=dict)
    user_item: Annotated[bool, Field(exclude_if=lambda value: not value)] = False

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label, *self.importance)

    def build(self, schema: FeatureSchema) -> "RankWeights":
        return RankWeights(self, schema)


class RankWeights(OfRepresentation):
    """Output `name` = sigmoid(weight(rep)^T r). It is a ranking score: the factors n_i shift it away from the label's
    rate.
    """

    def __init__(self, options: RankWeightsOptions, schema: FeatureSchema) -> None:
        importance = tuple(options.importance.items())
        super().__init__(Output(options.name, PROBABILITY, (options.label,), importance=importance))
        self.user_item = options.user_item
        self.columns = [item_numeric_column(schema.item, name, options.name) for name in options.features]

    def network(self, width: int, hidden: Sequence[int], dropout: float, user_item: int) -> nn.Module:
        if self.user_item and not user_item:
            problem = f"'{self.outputs[0].name}' has user_item, which needs an encoder 'matches' in model.encoders"
            raise RecipeError(f"tasks: {problem}", ("tasks",))
        return Weigh(width, hidden, self.columns, dropout, user_item if self.user_item else 0)


class Weigh(nn.Module):
    """weight(rep)^T r over the ranking features r; the weights are computed once per request.

    r has the scaled numeric features of the candidate, then its `user_item` features.
    """

    columns: Tensor

    def __init__(
        self, width: int, hidden: Sequence[int], columns: Sequence[int], dropout: float, user_item: int = 0
    ) -> None:
        super().__init__()
        self.user_item = user_item
        self.register_buffer("columns", torch.tensor(list(columns)), persistent=False)
        self.weight = small_network((width, *hidden, len(columns) + user_item), dropout)

    def forward(self, representation_BR: Tensor, candidates: Candidates) -> Tensor:
        """`[B or 1, R]` -> a logit `[B]`."""
        features = candidates.scaled[..., self.columns]
        if self.user_item:
            assert candidates.user_item is not None
            features = torch.cat([features, candidates.user_item], -1)
        return (self.weight(representation_BR) * features).sum(-1)
