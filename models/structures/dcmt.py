"""DCMT: ESMM's chain with losses of pCVR in the clicked and in the unclicked space, by twin towers.

Zhu et al., DCMT: A Direct Entire-Space Causal Multi-Task Framework for Post-Click Conversion Estimation, ICDE 2023
(arXiv 2302.06141). With o the click, p = pCTR the propensity, r the conversion and e the log loss, pCVR learns from
clicks, and a counterfactual tower q learns from the other impressions the mirrored label r* = 1 - r, which is 1 there:
  sum of o e(r, pCVR) / p over sum of o / p  +  sum of (1 - o) e(r*, q) / (1 - p) over sum of (1 - o) / (1 - p)
  + agreement * mean of |1 - (pCVR + q)|.
The weights of each sum are normalised by their own sum (SNIPS), which bounds their variance. The last term is the prior
knowledge that one of the two happens; its small weight says how little an impression without a click tells about the
conversion. The losses on click and on click AND conversion are ESMM's. The propensity is a constant in the loss of
pCVR; the counterfactual tower is trained and not an output.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from features import FeatureSchema
from models.layers.probability import LogProbability, log_loss, of_logit
from models.structures.escm2 import Counterfactual, CounterfactualChain, CounterfactualOptions, inverse

TWIN = "counterfactual"

# Shape legend: B impressions.


class DcmtOptions(CounterfactualOptions):
    """The label columns of the chain; the outputs are pctr, pcvr and pctcvr.

    `agreement` is the weight of |1 - (pcvr + its counterfactual)|; `largest_weight` bounds an inverse propensity.
    """

    type: Literal["dcmt"]
    agreement: Annotated[float, Field(ge=0)] = 0.001

    def build(self, schema: FeatureSchema) -> "Dcmt":
        return Dcmt(self)


class Dcmt(CounterfactualChain):
    """Heads `pctr`, `pcvr`, `counterfactual`; outputs pctr, pcvr (defined on clicks), pctcvr."""

    more_heads = (TWIN,)

    def __init__(self, options: DcmtOptions) -> None:
        super().__init__(options, TwinTowers(options, options.agreement))


class TwinTowers(Counterfactual):
    """The losses of pCVR on clicks and of its counterfactual elsewhere, and the distance of their sum from 1."""

    refuses_weights: ClassVar[str] = "divides by the sums of its own weights, the inverse propensities of a batch"

    def __init__(self, options: CounterfactualOptions, agreement: float) -> None:
        super().__init__(options)
        self.agreement = agreement

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        click_B, propensity = self.click_and_propensity(batch, logits)
        counterfactual = of_logit(logits[TWIN])
        largest = self.options.largest_weight
        of_clicks = _weighted_mean(log_loss(p, label_B), click_B * inverse(propensity.yes, largest))
        # An impression without a click has no conversion, so its mirrored label is 1.
        of_others = _weighted_mean(-counterfactual.yes, (1 - click_B) * inverse(propensity.no, largest))
        apart_B = (1 - (p.yes.exp() + counterfactual.yes.exp())).abs()
        return of_clicks + of_others + self.agreement * apart_B.mean()


def _weighted_mean(loss_B: Tensor, weight_B: Tensor) -> Tensor:
    """0 without a row of weight; a row's weight is at least 1 otherwise."""
    return (weight_B * loss_B).sum() / weight_B.sum().clamp(min=1)
