"""Owns ESMM's task structure.

Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate, SIGIR 2018
(arXiv 1804.07931). Equation 1: pCTCVR = pCTR * pCVR. Equation 3: both losses, on click and on click AND conversion, run over all
impressions; pCVR has no loss of its own.
"""

from collections.abc import Mapping

from torch import Tensor

from models.layers.probability import LogProbability, both, of_logit
from models.recipe.recipe import EsmmTask
from models.structures.base import Output
from models.structures.chain import Chain


class Esmm(Chain):
    """Heads `pctr`, `pcvr`; outputs pctr, pcvr (meant on clicks), pctcvr."""

    heads = ("pctr", "pcvr")

    def __init__(self, task: EsmmTask) -> None:
        self.outputs = (
            Output("pctr", "probability", (task.click,)),
            Output("pcvr", "probability", (task.conversion,), space=(task.click,), trained=False),
            Output("pctcvr", "probability", (task.click, task.conversion)),
        )
        self.factors = self.outputs[:2]

    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """pctr and pcvr."""
        return {head: of_logit(logits[head]) for head in self.heads}

    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, LogProbability | Tensor]:
        """Equation 1."""
        return {**factors, "pctcvr": both(factors["pctr"], factors["pcvr"])}
