"""Owns ESMM's task structure.

Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate, SIGIR 2018
(arXiv 1804.07931). Equation 1: pCTCVR = pCTR * pCVR. Equation 3: both losses, on click and on click AND conversion, run over all
impressions; pCVR has no loss of its own.
"""

from collections.abc import Mapping

from torch import Tensor

from models.layers.probability import LogProbability, both, of_logit
from models.recipe import EsmmTask
from models.structures.base import Output


class Esmm:
    """Heads `pctr`, `pcvr`; outputs pctr, pcvr (meant on clicks), pctcvr."""

    heads = ("pctr", "pcvr")

    def __init__(self, task: EsmmTask) -> None:
        self.outputs = (
            Output("pctr", "probability", (task.click,)),
            Output("pcvr", "probability", (task.conversion,), space=(task.click,), trained=False),
            Output("pctcvr", "probability", (task.click, task.conversion)),
        )

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability | Tensor]:
        """Logits `[n]` by head -> outputs `[n]` by name."""
        pctr, pcvr = of_logit(logits["pctr"]), of_logit(logits["pcvr"])
        return {"pctr": pctr, "pcvr": pcvr, "pctcvr": both(pctr, pcvr)}
