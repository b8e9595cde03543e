"""Finds the domain of each impression: the position of a context feature's value in the list of the recipe."""

import torch
from torch import Tensor, nn

from features import RowLayout, key_of
from features.nearest import nearest
from models.data.encoding.encoding import Encoding
from models.errors import RecipeError
from models.recipe.sections.model import DomainSection

# Shape legend: B impressions (1 at serving), D domains of the recipe.

NO_ROW = -1  # of a value that is too rare to have an embedding row


class Domains(nn.Module):
    """Gives i for the i-th value in the recipe, counted from 1; 0 for any other value and for a missing one."""

    rows: Tensor
    numbers: Tensor

    def __init__(self, section: DomainSection, encoding: Encoding) -> None:
        super().__init__()
        context = encoding.schema.context
        features = {feature.name: feature for feature in context if feature.type == "categorical"}
        if section.feature not in features:
            problem = f"'{section.feature}' is no categorical context feature{nearest(section.feature, features)}"
            raise RecipeError(f"model.domain.feature: {problem}", ("model", "domain", "feature"))
        feature = features[section.feature]
        if feature.vocabulary_name in encoding.vocabulary.buckets:
            problem = (
                f"'{section.feature}' is hashed (model.embedding.hash_buckets), so its values cannot be told apart"
            )
            raise RecipeError(f"model.domain.feature: {problem}", ("model", "domain", "feature"))
        self.column = RowLayout(context).key_columns[section.feature].start
        row_of_key = dict(zip(encoding.vocabulary.keys.tolist(), encoding.vocabulary.rows.tolist(), strict=True))
        keys = [key_of(feature.vocabulary_name, value, feature.name) for value in section.values]
        rows = [row_of_key.get(key, NO_ROW) for key in keys]
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer("numbers", torch.arange(1, len(rows) + 1), persistent=False)

    def forward(self, context_rows_BK: Tensor) -> Tensor:
        """Map the embedding rows of the context `[B, K]` to the domain, int64 `[B]`."""
        matches_BD = context_rows_BK[:, self.column : self.column + 1] == self.rows
        return (matches_BD.to(torch.int64) * self.numbers).sum(-1)
