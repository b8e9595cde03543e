"""Holds what tasks share that learn from the distribution of their label: statistics of the training part, as buffers.

They are computed before the first step, saved with the weights, and constants of the graph. A run that continues
another one keeps the statistics of that run, which its weights belong to.
"""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from models.kinds import Score
from models.structures.base import Output, TaskStructure


class WithStatistics(TaskStructure):
    """A task whose output is a value; `statistics` has buffers alone."""

    outputs: tuple[Output, ...]
    statistics: nn.Module

    @abstractmethod
    def fit(self, label: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        """Compute the statistics from labels `[n]` of the training part and raw numbers `[n]`, NaN if missing."""

    @abstractmethod
    def value(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Logits and raw numbers by name -> the value `[n]`."""

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits and raw numbers by name -> the output."""
        return {self.outputs[0].name: self.value(logits)}
