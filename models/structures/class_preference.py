"""DUPN's price preference: the class of item that a user prefers, computed from the user's representation only.

Ni et al., KDD 2018 (arXiv 1805.10727), section 4.5.3: softmax cross entropy of the class of the item that the user
acted on (seven price levels in the paper). The classes divide the range of one numeric item feature. The score of a
candidate is the probability of its own class, so the classes are computed once per request. The loss, over impressions
with the label, is minus the logarithm of that probability.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from features import FeatureSchema
from models.kinds import Score
from models.kinds.preference import Preference
from models.layers.probability import of_logit
from models.options import Column, Name
from models.structures.base import Output, TaskOptions
from models.structures.representation import Candidates, OfRepresentation, item_numeric_column, small_network

# Shape legend: B impressions or candidates, R the user's representation, C classes.


class ClassPreferenceOptions(TaskOptions):
    """The class of item that the user prefers where `label` is 1; `edges` cut a numeric item `feature` into classes."""

    type: Literal["class_preference"]
    name: Name
    label: Column
    feature: Column
    edges: Annotated[tuple[float, ...], Field(min_length=1, max_length=63)]

    @field_validator("edges")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("edges must ascend")
        return value

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)

    def build(self, schema: FeatureSchema) -> "ClassPreference":
        return ClassPreference(self, schema)


class ClassPreference(OfRepresentation):
    """Output `name` = p(class = the candidate's class | user, label): defined, and trained, where the label is 1."""

    def __init__(self, options: ClassPreferenceOptions, schema: FeatureSchema) -> None:
        column = item_numeric_column(schema.item, options.feature, options.name)
        self.kind = Preference(column=column, edges=options.edges)
        super().__init__(Output(options.name, self.kind, (options.label,), space=(options.label,)))

    def class_of(self, numerics: np.ndarray) -> np.ndarray:
        """Raw item numerics `[n, N]` -> the class of each, int64 `[n]`, counted as in Prefer."""
        return self.kind.class_of(numerics)

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits `[n, C]` as Prefer gives them -> the output `[n]`, p of the candidate's class."""
        name = self.outputs[0].name
        return {name: of_logit(-torch.logsumexp(logits[name], -1))}

    def network(self, width: int, hidden: Sequence[int], dropout: float, user_item: int) -> nn.Module:
        return Prefer(width, hidden, self.kind.column, self.kind.edges, dropout)


class Prefer(nn.Module):
    """A logit per class from the representation: class 0 is a missing number, class c > 0 is [edge c-2, edge c-1).

    The result is what the softmax takes and not its log odds: an ensemble averages it, and the probabilities of the
    classes then still sum to 1. The mean of the members' log odds would not keep that for more than two classes.
    """

    edges: Tensor
    index: Tensor

    def __init__(self, width: int, hidden: Sequence[int], column: int, edges: Sequence[float], dropout: float) -> None:
        super().__init__()
        self.column = column
        self.classes = len(edges) + 2
        self.of_class = small_network((width, *hidden, self.classes), dropout)
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32), persistent=False)
        self.register_buffer("index", torch.arange(self.classes), persistent=False)

    def forward(self, representation_BR: Tensor, candidates: Candidates) -> Tensor:
        """`[B or 1, R]` -> the logit of every class less that of the candidate's class `[B, C]`, -1e9 at its own."""
        value_B1 = candidates.raw[..., self.column].unsqueeze(-1)
        class_B1 = torch.where(torch.isnan(value_B1), 0, (value_B1 >= self.edges).sum(-1, keepdim=True) + 1)
        own_BC = class_B1 == self.index
        logits_BC = self.of_class(representation_BR)
        own_B1 = torch.where(own_BC, logits_BC, 0.0).sum(-1, keepdim=True)
        return (logits_BC - own_B1).masked_fill(own_BC, -1e9)
