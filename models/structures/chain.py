"""Holds what the chains ESMM and ESM2 share: scores that are products of calibrated factors."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from models.kinds import Score
from models.layers.probability import LogProbability
from models.structures.base import Output, TaskStructure


class Chain(TaskStructure):
    """`factors` are calibrated one by one, each on its own label and space; `joined` multiplies them.

    So pctcvr = pctr * pcvr holds after calibration too.
    """

    factors: tuple[Output, ...]

    @abstractmethod
    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """Logits `[n]` by head -> factors `[n]` by name."""

    @abstractmethod
    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, Score]:
        """Factors `[n]` -> outputs `[n]`, by name."""

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits `[n]` by head -> outputs `[n]` by name."""
        return self.joined(self.factor_scores(logits))
