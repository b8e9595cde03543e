"""Holds what tasks over the user's representation share: a separate network on it, and a probability as the output."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from features import RowLayout
from features.schemas.schema import Feature
from models.errors import RecipeError
from models.kinds import Score
from models.layers.probability import of_logit
from models.structures.base import Output, TaskStructure


class Candidates(NamedTuple):
    """The numeric features of the candidates, each `[B, N]`: `raw` with NaN for missing, `scaled` as in the trunk.

    `user_item` `[B, M]`: the user x item features, None if no encoder computes some.
    """

    raw: Tensor
    scaled: Tensor
    user_item: Tensor | None = None


class OfRepresentation(TaskStructure):
    """A task without a head on the trunk.

    Its own network makes its logit from the user's representation and the numeric features of the candidates.
    """

    heads: tuple[str, ...] = ()

    def __init__(self, output: Output) -> None:
        self.outputs: tuple[Output, ...] = (output,)

    def network(self, width: int, hidden: Sequence[int], dropout: float, user_item: int) -> nn.Module:
        """Build the network that maps a representation `[B or 1, R]` of `width` R and Candidates to logits.

        `user_item`: the number of user x item features.
        `scores` reads them: `[B]`, or `[B, C]` for a softmax. An ensemble takes their mean over its members.
        """
        raise NotImplementedError

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits `[n]` by name -> the output `[n]`; a task with several logits overrides this."""
        name = self.outputs[0].name
        return {name: of_logit(logits[name])}


def item_numeric_column(item: Sequence[Feature], name: str, task: str) -> int:
    """Return the index of a numeric item feature among the item's numerics. Raises RecipeError if it does not exist."""
    columns = RowLayout(item).numeric_columns
    if name not in columns:
        known = ", ".join(columns) or "none"
        problem = f"'{task}' names '{name}', which is no numeric item feature; those are: {known}"
        raise RecipeError(f"tasks: {problem}", ("tasks",), name)
    return columns[name]


def small_network(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU between them, and dropout after each ReLU."""
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(a, b), nn.Sequential(nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*layers[:-1])
