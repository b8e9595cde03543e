"""ESCM2: ESMM's chain with a loss of its own for pCVR, an estimate of its loss over all impressions.

Wang et al., ESCM2: Entire Space Counterfactual Multi-Task Model for Post-Click Conversion Rate Estimation, SIGIR 2022
(arXiv 2204.05125). ESMM's pCVR is the quotient of two estimates, so it tends to be too high. With o the click, r the
conversion, e the log loss of pCVR for r, and the propensity p = pCTR, the mean over all impressions of
  IPS: o e / p, which is unbiased if p is right;
  DR: d + o (e - d) / p, with d the loss that an imputation tower expects, which is unbiased if p or d is right; plus
    o (e - d)^2 / p, which trains that tower alone.
The losses on click and on click AND conversion are ESMM's. The paper's weights of the losses, lambda_c and lambda_g,
are `training.loss_weights` of pcvr and pctcvr. The propensity is a constant in the loss of pCVR. The imputation tower
gives softplus of its logit, since a log loss is positive; it is trained and not an output.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from features import FeatureSchema
from models.kinds import PROBABILITY
from models.layers.probability import LogProbability, log_loss, of_logit
from models.options import Column
from models.structures.base import Correction, Output, ProbabilityCorrection, TaskOptions, weighted
from models.structures.esmm import Esmm

IMPUTATION = "imputation"

# Shape legend: B impressions.


class CounterfactualOptions(TaskOptions):
    """The label columns of a chain whose pCVR has a loss over all impressions, weighted by inverse propensities."""

    click: Column
    conversion: Column
    largest_weight: Annotated[float, Field(ge=1)] = 100.0

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.click, self.conversion)


class Escm2Options(CounterfactualOptions):
    """The label columns of the chain; the outputs are pctr, pcvr and pctcvr. `estimator` is that of the loss of pcvr.

    `largest_weight` bounds the weight 1 / pctr of a click: a lower bound has less variance and more bias.
    """

    type: Literal["escm2"]
    estimator: Literal["ips", "dr"] = "dr"

    def build(self, schema: FeatureSchema) -> "Escm2":
        return Escm2(self)


class CounterfactualChain(Esmm):
    """ESMM's chain, whose pcvr is trained by `correction` too; `more_heads` are read by that loss alone."""

    more_heads: tuple[str, ...] = ()

    def __init__(self, options: CounterfactualOptions, correction: Correction) -> None:
        self.heads = (*Esmm.heads, *self.more_heads)
        self.outputs = (
            Output("pctr", PROBABILITY, (options.click,)),
            Output("pcvr", PROBABILITY, (options.conversion,), space=(options.click,), correction=correction),
            Output("pctcvr", PROBABILITY, (options.click, options.conversion)),
        )
        self.factors = self.outputs[:2]


class Escm2(CounterfactualChain):
    """Heads `pctr`, `pcvr` and, for DR, `imputation`; outputs pctr, pcvr (defined on clicks), pctcvr."""

    def __init__(self, options: Escm2Options) -> None:
        correction: Correction = InversePropensity(options)
        if options.estimator == "dr":
            self.more_heads = (IMPUTATION,)
            correction = DoublyRobust(options)
        super().__init__(options, correction)


def inverse(log_probability: Tensor, largest: float) -> Tensor:
    """1 / p `[n]` from log p, at most `largest`, as a constant of the loss."""
    return torch.exp(-log_probability.detach()).clamp(max=largest)


class Counterfactual(ProbabilityCorrection):
    """A loss of pCVR over all impressions from the labels of the clicks."""

    refuses_list_loss: ClassVar[str] = "has a loss over all impressions; a list loss would see the clicks alone"

    def __init__(self, options: CounterfactualOptions) -> None:
        self.options = options

    def click_and_propensity(
        self, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> tuple[Tensor, LogProbability]:
        """The label of the click and its probability, `[B]` each."""
        return batch[f"label/{self.options.click}"], of_logit(logits["pctr"])


class InversePropensity(Counterfactual):
    """The mean over all impressions of o e / p."""

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        click_B, propensity = self.click_and_propensity(batch, logits)
        weight_B = click_B * inverse(propensity.yes, self.options.largest_weight)
        return weighted(weight_B * log_loss(p, label_B), batch).mean()


class DoublyRobust(Counterfactual):
    """The mean over all impressions of d + o (e - d) / p + o (e - d)^2 / p."""

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        click_B, propensity = self.click_and_propensity(batch, logits)
        weight_B = click_B * inverse(propensity.yes, self.options.largest_weight)
        expected_B = softplus(logits[IMPUTATION])
        loss_B = log_loss(p, label_B)
        # The estimate trains pCVR and the square trains the imputation. A square that moved pCVR too would bias it.
        held_B = expected_B.detach()
        square_B = (loss_B.detach() - expected_B) ** 2
        return weighted(held_B + weight_B * (loss_B - held_B + square_B), batch).mean()
