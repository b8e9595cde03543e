"""Owns the independent task: one head, one label, no chain."""

from collections.abc import Mapping

from torch import Tensor

from models.layers.probability import LogProbability, of_logit
from models.recipe.recipe import IndependentTask
from models.structures.base import Output


class Independent:
    """p = sigmoid(logit), or the head's value itself for a `value` task."""

    def __init__(self, task: IndependentTask) -> None:
        self.heads = (task.name,)
        self.outputs = (Output(task.name, task.kind, (task.label,), space=(task.space,) if task.space else ()),)

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability | Tensor]:
        """Logits `[n]` by head -> outputs `[n]` by name."""
        (output,) = self.outputs
        logit = logits[output.name]
        return {output.name: of_logit(logit) if output.kind == "probability" else logit}
