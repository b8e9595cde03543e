"""ESM2: the entire-space chain click -> action -> conversion.

Wen et al., Entire Space Multi-Task Modeling via Post-Click Behavior Decomposition for Conversion Rate Prediction, SIGIR
2020 (arXiv 1910.07099). With y1 = p(click), y2 = p(action | click), y3 = p(conversion | action) and
y4 = p(conversion | other action): pCTR = y1 (equation 5), pCTAVR = y1 y2 (6), pCVR = (1 - y2) y4 + y2 y3 (7),
pCTCVR = y1 pCVR (8). Three losses run over all impressions, on click, click AND action, click AND conversion, each with
weight 1; y2, y3 and y4 have no loss of their own. The losses identify only the mixture pCVR, so y3 and y4 are not
outputs.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from features import FeatureSchema
from models.kinds import PROBABILITY, Score, TaskKind
from models.layers.probability import LogProbability, both, mixture, of_logit
from models.options import Column
from models.structures.base import Output, TaskOptions
from models.structures.chain import Chain
from models.structures.delay import HEAD, Delay, corrections


class Esm2Options(TaskOptions):
    """The label columns of the chain; the outputs are pctr, pctavr, pcvr and pctcvr.

    `delay`: how conversions to come count.
    """

    type: Literal["esm2"]
    click: Column
    action: Column
    conversion: Column
    delay: Annotated[Delay | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.click, self.action, self.conversion, *(self.delay.columns if self.delay else ()))

    @property
    def label_kinds(self) -> dict[str, TaskKind]:
        return super().label_kinds | (self.delay.columns if self.delay else {})

    def build(self, schema: FeatureSchema) -> "Esm2":
        return Esm2(self)


class Esm2(Chain):
    """Heads y1..y4 as `pctr`, `y2`, `y3`, `y4`; outputs pctr, pctavr, pcvr (defined on clicks), pctcvr."""

    heads: tuple[str, ...] = ("pctr", "y2", "y3", "y4")

    def __init__(self, options: Esm2Options) -> None:
        of_conversion, of_others = corrections(options.delay)
        if options.delay is not None:
            self.heads = (*self.heads, HEAD)
        self.outputs = (
            Output("pctr", PROBABILITY, (options.click,), correction=of_others),
            Output("pctavr", PROBABILITY, (options.click, options.action), correction=of_others),
            Output("pcvr", PROBABILITY, (options.conversion,), space=(options.click,), trained=False),
            Output(
                "pctcvr",
                PROBABILITY,
                (options.click, options.conversion),
                correction=of_conversion,
            ),
        )
        pavr = Output("pavr", PROBABILITY, (options.action,), space=(options.click,), trained=False)
        self.factors = (self.outputs[0], pavr, self.outputs[2])

    def factor_scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability]:
        """pctr, pavr (y2, the action among clicks) and pcvr, the mixture of equation 7."""
        y1, y2, y3, y4 = (of_logit(logits[head]) for head in Esm2.heads)
        return {"pctr": y1, "pavr": y2, "pcvr": mixture(y2, if_yes=y3, if_no=y4)}

    def joined(self, factors: Mapping[str, LogProbability]) -> dict[str, Score]:
        """Equations 6 and 8."""
        pctr = factors["pctr"]
        pcvr = factors["pcvr"]
        return {"pctr": pctr, "pctavr": both(pctr, factors["pavr"]), "pcvr": pcvr, "pctcvr": both(pctr, pcvr)}
