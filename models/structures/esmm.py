"""ESMM: the entire-space chain click -> conversion.

Ma et al., Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate, SIGIR 2018
(arXiv 1804.07931). Equation 1: pCTCVR = pCTR * pCVR. Equation 3: both losses, on click and on click AND conversion, run
over all impressions; pCVR has no loss of its own.

The paper sums the embeddings of each field, the behaviours among them. Here a multi-valued feature has `pooling: sum`
or `mean`, and the recipes pool behaviours by their mean beside the logarithm of their count.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from features import FeatureSchema
from models.kinds import PROBABILITY, Score, TaskKind
from models.layers.probability import LogProbability, both, of_logit
from models.options import Column
from models.structures.base import Output, TaskOptions
from models.structures.chain import Chain
from models.structures.delay import HEAD, Delay, corrections


class EsmmOptions(TaskOptions):
    """The label columns of the chain; the outputs are pctr, pcvr and pctcvr. `delay`: how conversions to come count."""

    type: Literal["esmm"]
    click: Column
    conversion: Column
    delay: Annotated[Delay | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.click, self.conversion, *(self.delay.columns if self.delay else ()))

    @property
    def label_kinds(self) -> dict[str, TaskKind]:
        return super().label_kinds | (self.delay.columns if self.delay else {})

    def build(self, schema: FeatureSchema) -> "Esmm":
        return Esmm(self)


class Esmm(Chain):
    """Heads `pctr`, `pcvr`; outputs pctr, pcvr (defined on clicks), pctcvr."""

    heads: tuple[str, ...] = ("pctr", "pcvr")

    def __init__(self, options: EsmmOptions) -> None:
        of_conversion, of_others = corrections(options.delay)
        if options.delay is not None:
            self.heads = (*self.heads, HEAD)
        self.outputs = (
            Output("pctr", PROBABILITY, (options.click,), correction=of_others),
            Output("pcvr", PROBABILITY, (options.conversion,), space=(options.click,), trained=False),
            Output(
                "pctcvr",
                PROBABILITY,
                (options.click, options.conversion),
                correction=of_conversion,
            ),
        )
        self.factors = self.outputs[:2]

    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """pctr and pcvr."""
        return {head: of_logit(logits[head]) for head in Esmm.heads}

    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, Score]:
        """Equation 1."""
        return {**factors, "pctcvr": both(factors["pctr"], factors["pcvr"])}
