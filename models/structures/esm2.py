"""Owns ESM2's task structure.

Wen et al., Entire Space Multi-Task Modeling via Post-Click Behavior Decomposition for Conversion Rate Prediction, SIGIR 2020
(arXiv 1910.07099). With y1 = p(click), y2 = p(action | click), y3 = p(conversion | action), y4 = p(conversion | other action):
pCTR = y1 (equation 5), pCTAVR = y1 y2 (6), pCVR = (1 - y2) y4 + y2 y3 (7), pCTCVR = y1 pCVR (8). Three losses over all impressions,
on click, click AND action, click AND conversion, each with weight 1; y2, y3 and y4 have none of their own. Only the mixture pCVR is
identified by them, so y3 and y4 are not outputs.
"""

from collections.abc import Mapping

from torch import Tensor

from models.layers.probability import LogProbability, both, mixture, of_logit
from models.recipe.recipe import Esm2Task
from models.structures.base import Output
from models.structures.chain import Chain


class Esm2(Chain):
    """Heads y1..y4 as `pctr`, `y2`, `y3`, `y4`; outputs pctr, pctavr, pcvr (meant on clicks), pctcvr."""

    heads = ("pctr", "y2", "y3", "y4")

    def __init__(self, task: Esm2Task) -> None:
        self.outputs = (
            Output("pctr", "probability", (task.click,)),
            Output("pctavr", "probability", (task.click, task.action)),
            Output("pcvr", "probability", (task.conversion,), space=(task.click,), trained=False),
            Output("pctcvr", "probability", (task.click, task.conversion)),
        )
        pavr = Output("pavr", "probability", (task.action,), space=(task.click,), trained=False)
        self.factors = (self.outputs[0], pavr, self.outputs[2])

    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """pctr, pavr (y2, the action among clicks) and pcvr, the mixture of equation 7."""
        y1, y2, y3, y4 = (of_logit(logits[head]) for head in self.heads)
        return {"pctr": y1, "pavr": y2, "pcvr": mixture(y2, if_yes=y3, if_no=y4)}

    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, LogProbability | Tensor]:
        """Equations 6 and 8."""
        pctr = factors["pctr"]
        pcvr = factors["pcvr"]
        return {"pctr": pctr, "pctavr": both(pctr, factors["pavr"]), "pcvr": pcvr, "pctcvr": both(pctr, pcvr)}
