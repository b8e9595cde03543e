"""Owns DUPN's price preference: which class of items (seven price levels in the paper) the user goes for, from the representation alone.

Ni et al., KDD 2018 (arXiv 1805.10727), section 4.5.3: softmax cross entropy of the class of the item that the user acted on. The classes
cut one numeric item feature. The score of a candidate is the probability of its own class, so the classes are computed once per request
and the loss, over impressions with the label, is -log of that score.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from features import FeatureSchema
from models.recipe.recipe import ClassPreferenceTask
from models.structures.base import Output
from models.structures.representation import Candidates, OfRepresentation, item_numeric_column, small_network


class ClassPreference(OfRepresentation):
    """Output `name` = p(class = the candidate's class | user, label): meant, and trained, where the label is 1."""

    def __init__(self, task: ClassPreferenceTask, schema: FeatureSchema) -> None:
        super().__init__(Output(task.name, "probability", (task.label,), space=(task.label,)))
        self.edges = task.edges
        self.column = item_numeric_column(schema.item, task.feature, task.name)

    def class_of(self, numerics: np.ndarray) -> np.ndarray:
        """Items' numerics `[n, N]`, NaN for missing -> the class of each, int64 `[n]`, counted as in Prefer."""
        values = numerics[:, self.column]
        return np.where(
            np.isnan(values), 0, np.searchsorted(np.asarray(self.edges, np.float32), values, side="right") + 1
        )

    def network(self, width: int, hidden: Sequence[int]) -> nn.Module:
        return Prefer(width, hidden, self.column, self.edges)


class Prefer(nn.Module):
    """A logit per class from the representation: class 0 holds missing numbers, class c > 0 those in [edge c-2, edge c-1)."""

    edges: Tensor
    index: Tensor

    def __init__(self, width: int, hidden: Sequence[int], column: int, edges: Sequence[float]) -> None:
        super().__init__()
        self.column = column
        self.classes = len(edges) + 2
        self.of_class = small_network((width, *hidden, self.classes))
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32), persistent=False)
        self.register_buffer("index", torch.arange(self.classes), persistent=False)

    def forward(self, representation_BR: Tensor, candidates: Candidates) -> Tensor:
        """`[B or 1, R]` -> log(p / (1 - p)) `[B]`, p the probability of the candidate's class."""
        value_B1 = candidates.raw[..., self.column].unsqueeze(-1)
        class_B1 = torch.where(torch.isnan(value_B1), 0, (value_B1 >= self.edges).sum(-1, keepdim=True) + 1)
        own_BC = class_B1 == self.index
        logits_BC = self.of_class(representation_BR)
        own = torch.where(own_BC, logits_BC, 0.0).sum(-1)
        others = torch.logsumexp(logits_BC.masked_fill(own_BC, -1e9), -1)
        return own - others
