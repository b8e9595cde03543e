"""Conversion steps: a funnel of any length, whose probabilities must not rise from one step to the next.

Xi et al., KDD 2021 (arXiv 2105.08489). Every step t has the probability y_t that it happens to an
impression, over all impressions: L = sum_t log loss(y_t) + alpha sum_{t>1} mean(max(y_t - y_{t-1}, 0)). The second term
is the paper's behavioural expectation calibrator. A step counts as taken only if all steps before it are.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from features import FeatureSchema
from models.kinds import PROBABILITY, Score
from models.layers.probability import LogProbability, log_loss, of_logit
from models.options import Column, Name, Options
from models.structures.base import Output, ProbabilityCorrection, TaskOptions, TaskStructure, weighted

# Shape legend: B impressions.


class StepOptions(Options):
    """A step: `name` is its output, `label` its column."""

    name: Name
    label: Column


class ConversionStepsOptions(TaskOptions):
    """`steps` in order; `calibrator`: the weight alpha of the loss on a step that is likelier than the one before."""

    type: Literal["conversion_steps"]
    steps: Annotated[tuple[StepOptions, ...], Field(min_length=2, max_length=16)]
    calibrator: Annotated[float, Field(ge=0)] = 0.6

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(step.label for step in self.steps)

    def build(self, schema: FeatureSchema) -> "ConversionSteps":
        return ConversionSteps(self)


class NoLikelierThan(ProbabilityCorrection):
    """The log loss of a step, and the excess of its probability over that of the step `before`."""

    def __init__(self, before: str, weight: float) -> None:
        self.before = before
        self.weight = weight

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        excess_B = torch.relu(p.yes.exp() - of_logit(logits[self.before]).yes.exp())
        excess = weighted(excess_B, batch).mean()
        return weighted(log_loss(p, label_B), batch).mean() + self.weight * excess


class ConversionSteps(TaskStructure):
    """A head and an output per step, by name in order."""

    def __init__(self, options: ConversionStepsOptions) -> None:
        self.heads = tuple(step.name for step in options.steps)
        outputs = []
        for i, name in enumerate(self.heads):
            bound = NoLikelierThan(self.heads[i - 1], options.calibrator) if i else None
            outputs.append(Output(name, PROBABILITY, options.labels[: i + 1], correction=bound))
        self.outputs = tuple(outputs)

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits `[n]` by head -> the probability of each step."""
        return {head: of_logit(logits[head]) for head in self.heads}
