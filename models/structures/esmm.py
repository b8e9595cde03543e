"""ESMM: the entire-space chain click -> conversion.

Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate, SIGIR 2018
(arXiv 1804.07931). Equation 1: pCTCVR = pCTR * pCVR. Equation 3: both losses, on click and on click AND conversion, run
over all impressions; pCVR has no loss of its own.

The paper sums the embeddings of each field, the behaviours among them. Here a multi-valued feature has `pooling: sum`
or `mean`, and the recipes pool behaviours by their mean beside the logarithm of their count.
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from features import FeatureSchema
from models.kinds import PROBABILITY, Score
from models.layers.probability import LogProbability, both, of_logit
from models.options import Column
from models.structures.base import Output, TaskOptions
from models.structures.chain import Chain


class EsmmOptions(TaskOptions):
    """The label columns of the chain; the outputs are pctr, pcvr and pctcvr."""

    type: Literal["esmm"]
    click: Column
    conversion: Column

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.click, self.conversion)

    def build(self, schema: FeatureSchema) -> "Esmm":
        return Esmm(self)


class Esmm(Chain):
    """Heads `pctr`, `pcvr`; outputs pctr, pcvr (defined on clicks), pctcvr."""

    heads = ("pctr", "pcvr")

    def __init__(self, options: EsmmOptions) -> None:
        self.outputs = (
            Output("pctr", PROBABILITY, (options.click,)),
            Output("pcvr", PROBABILITY, (options.conversion,), space=(options.click,), trained=False),
            Output("pctcvr", PROBABILITY, (options.click, options.conversion)),
        )
        self.factors = self.outputs[:2]

    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """pctr and pcvr."""
        return {head: of_logit(logits[head]) for head in self.heads}

    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, Score]:
        """Equation 1."""
        return {**factors, "pctcvr": both(factors["pctr"], factors["pcvr"])}
