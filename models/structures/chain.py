"""Owns what the chains ESMM and ESM2 share: scores made of factors, the conditional probabilities that a calibration may map."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from models.layers.probability import LogProbability
from models.structures.base import Output


class Chain(ABC):
    """`factors` are calibrated one by one, each on its own label and space; `joined` multiplies them, so pctcvr stays pctr * pcvr."""

    factors: tuple[Output, ...]

    @abstractmethod
    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """Logits `[n]` by head -> factors `[n]` by name."""

    @abstractmethod
    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, LogProbability | Tensor]:
        """Factors `[n]` -> outputs `[n]`, by name."""

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability | Tensor]:
        """Logits `[n]` by head -> outputs `[n]` by name."""
        return self.joined(self.factor_scores(logits))
