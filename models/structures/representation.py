"""Owns what tasks over the user's representation share: a network on it of their own, and a plain probability on top."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from features import RowLayout
from features.schema import Feature
from models.layers.probability import LogProbability, of_logit
from models.recipe.recipe import RecipeError
from models.structures.base import Output


class Candidates(NamedTuple):
    """The candidates' numeric features, each `[B, N]`: `raw` with NaN for missing, and `scaled` as the trunk reads them."""

    raw: Tensor
    scaled: Tensor


class OfRepresentation:
    """A task without a head on the trunk: its own network makes its logit of the representation and the candidates' numerics."""

    heads: tuple[str, ...] = ()

    def __init__(self, output: Output) -> None:
        self.outputs: tuple[Output, ...] = (output,)

    def network(self, width: int, hidden: Sequence[int]) -> nn.Module:
        """The network over a representation of this width; takes it `[B or 1, R]` and Candidates, gives a logit `[B]`."""
        raise NotImplementedError

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability | Tensor]:
        """Logits `[n]` by name -> the output `[n]`."""
        name = self.outputs[0].name
        return {name: of_logit(logits[name])}


def item_numeric_column(item: Sequence[Feature], name: str, task: str) -> int:
    """The place of a numeric item feature among the item's numerics. Raises RecipeError."""
    columns = RowLayout(item).numeric_columns
    if name not in columns:
        raise RecipeError(
            f"tasks: '{task}' names '{name}', which is no numeric item feature; those are: {', '.join(columns) or 'none'}"
        )
    return columns[name]


def small_network(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
