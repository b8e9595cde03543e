"""Corrections of the conversion's loss for conversions that have not come yet.

A row without a conversion may be one whose conversion comes later. Each correction reads one more head of the chain,
`delay`, which is trained and not an output.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.kinds import PROBABILITY, TaskKind
from models.kinds.value import Value
from models.layers.probability import LogProbability, log_loss
from models.options import Column, Options, Positive
from models.structures.base import Correction, ProbabilityCorrection, weighted

HEAD = "delay"
# The rate lies within exp(-12) and exp(12) per `scale_s`, so that its exponential stays finite.
_LARGEST_LOG_RATE = 12.0

# Shape legend: B impressions.


class _Delay(Options):
    """What the options of all corrections have in common."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, TaskKind]:
        """The columns that the correction reads, with the kind of their values."""

    @abstractmethod
    def of_conversion(self) -> Correction:
        """The correction of the loss whose label is the conversion."""

    def of_others(self) -> Correction | None:
        """The correction of the chain's other losses; None if they need none."""
        return None

    @abstractmethod
    def problem(self, converted: np.ndarray, columns: Mapping[str, np.ndarray]) -> str:
        """Why the columns `[n]` of the training part cannot be those of a log; empty if they can.

        `converted`, bool `[n]`: whether the impression has a conversion.
        """


class _ByAge(_Delay):
    """Columns in seconds: `age` from the impression to the end of the log, `delay` to the conversion (0 without one).

    The delay is exponential with the rate exp(head) / `scale_s`, a function of the features.
    """

    age: Column
    delay: Column
    scale_s: Positive = 86_400.0

    @property
    def columns(self) -> dict[str, TaskKind]:
        return {self.age: Value(), self.delay: Value()}

    def problem(self, converted: np.ndarray, columns: Mapping[str, np.ndarray]) -> str:
        age = columns[self.age]
        delay = columns[self.delay]
        negative = {name: int((columns[name] < 0).sum()) for name in (self.age, self.delay)}
        for name, count in negative.items():
            if count:
                return f"'{name}' is negative in {count:,} impressions of the training part; it is a time in seconds"
        beyond = int((converted & (delay > age)).sum())
        if beyond:
            problem = f"'{self.delay}' is above '{self.age}' in {beyond:,} conversions of the training part"
            return f"{problem}, so they came after the end of the log; both are in seconds"
        if converted.any() and not delay[converted].any():
            return f"'{self.delay}' is 0 in every conversion of the training part, so there is no delay to learn"
        return ""

    def scaled(self, batch: Mapping[str, Tensor], logit_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithm of the rate, the age and the delay of each impression, in units of `scale_s`, `[B]`."""
        log_rate_B = logit_B.clamp(-_LARGEST_LOG_RATE, _LARGEST_LOG_RATE)
        return log_rate_B, batch[f"label/{self.age}"] / self.scale_s, batch[f"label/{self.delay}"] / self.scale_s


class DelayedFeedbackOptions(_ByAge):
    """The likelihood of what was seen: a conversion after its delay, or none until the age of the impression.

    Source: Chapelle, Modeling Delayed Feedback in Display Advertising, KDD 2014, equations 6 to 8.
    """

    type: Literal["delayed_feedback"]

    def of_conversion(self) -> Correction:
        return DelayedFeedback(self)


class ElapsedWeightsOptions(_ByAge):
    """Importance weights by the delay distribution F at the age: 1 / F for a conversion (at most `largest_weight`),
    (1 - p) / (1 - p F) for none, with the model's own p.

    The distribution is fitted to the delays of the conversions that were seen, given that each is within its age.
    Source: the delay model of Chapelle (KDD 2014) with the weights of Yasui et al., A Feedback Shift Correction in
    Predicting Conversion Rates under Delayed Feedback, WWW 2020, section 4.
    """

    type: Literal["elapsed_weights"]
    largest_weight: Annotated[float, Field(ge=1)] = 20.0

    def of_conversion(self) -> Correction:
        return ElapsedWeights(self)


class FakeNegativesOptions(_Delay):
    """Weights for rows that were labelled early and repeated as a conversion when one followed.

    `late` is 1 for such a repetition. Its odds given the features are the probability of a late conversion, p_late; a
    conversion weighs 1 + p_late, none (1 + p_late) (1 - p) / (1 - p + p_late), with the model's own p.
    Source: Yang et al., Capturing Delayed Feedback in Conversion Rate Prediction via Elapsed-Time Sampling, AAAI 2021
    (ES-DFM), equations 9 to 12; fitted within one model instead of two earlier ones.
    """

    type: Literal["fake_negatives"]
    late: Column

    @property
    def columns(self) -> dict[str, TaskKind]:
        return {self.late: PROBABILITY}

    def of_conversion(self) -> Correction:
        return FakeNegatives(self)

    def of_others(self) -> Correction | None:
        return WithoutRepetitions(self)

    def problem(self, converted: np.ndarray, columns: Mapping[str, np.ndarray]) -> str:
        false = int(((columns[self.late] > 0) & ~converted).sum())
        if not false:
            return ""
        return (
            f"'{self.late}' is 1 in {false:,} rows of the training part without a conversion; it marks late conversions"
        )


Delay = Annotated[DelayedFeedbackOptions | ElapsedWeightsOptions | FakeNegativesOptions, Field(discriminator="type")]


def corrections(delay: Delay | None) -> tuple[Correction | None, Correction | None]:
    """Return the correction of the loss on the conversion, and that of the chain's other losses."""
    if delay is None:
        return None, None
    return delay.of_conversion(), delay.of_others()


class _OfDelay(ProbabilityCorrection):
    refuses_list_loss: ClassVar[str] = "has a task with `delay`; a list loss would take a conversion to come for none"


class DelayedFeedback(_OfDelay):
    """-log p - log r + r d for a conversion after d; -log(1 - p + p exp(-r a)) for none until the age a."""

    def __init__(self, options: DelayedFeedbackOptions) -> None:
        self.options = options

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        log_rate_B, age_B, delay_B = self.options.scaled(batch, logits[HEAD])
        rate_B = log_rate_B.exp()
        seen_B = -(p.yes + log_rate_B - rate_B * delay_B)
        unseen_B = -torch.logaddexp(p.no, p.yes - rate_B * age_B)
        return weighted(torch.where(label_B > 0, seen_B, unseen_B), batch).mean()


class ElapsedWeights(_OfDelay):
    """The weighted log loss, and the log loss of the delays that were seen."""

    def __init__(self, options: ElapsedWeightsOptions) -> None:
        self.options = options

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        log_rate_B, age_B, delay_B = self.options.scaled(batch, logits[HEAD])
        rate_B = log_rate_B.exp()
        # A conversion has a delay below its age; a tiny age keeps the logarithm finite for the other rows.
        log_within_B = torch.log(-torch.expm1(-rate_B * age_B.clamp(min=1e-6)))
        delay_loss_B = -(log_rate_B - rate_B * delay_B - log_within_B)
        with torch.no_grad():
            of_yes_B = torch.exp(-log_within_B).clamp(max=self.options.largest_weight)
            of_no_B = torch.exp(p.no - torch.logaddexp(p.no, p.yes - rate_B * age_B))
        loss_B = torch.where(label_B > 0, -of_yes_B * p.yes + delay_loss_B, -of_no_B * p.no)
        return weighted(loss_B, batch).mean()


class FakeNegatives(_OfDelay):
    """The weighted log loss, and the log loss of whether a row is a repetition."""

    def __init__(self, options: FakeNegativesOptions) -> None:
        self.options = options

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        logit_B = logits[HEAD]
        late_B = batch[f"label/{self.options.late}"]
        late_loss_B = binary_cross_entropy_with_logits(logit_B, late_B, reduction="none")
        with torch.no_grad():
            # The odds of a repetition are the probability of a late conversion.
            log_late_B = logit_B.clamp(max=0)
            log_of_yes_B = torch.log1p(log_late_B.exp())
            of_no_B = torch.exp(log_of_yes_B + p.no - torch.logaddexp(p.no, log_late_B))
        loss_B = torch.where(label_B > 0, -log_of_yes_B.exp() * p.yes, -of_no_B * p.no)
        return weighted(loss_B, batch).mean() + weighted(late_loss_B, batch).mean()


class WithoutRepetitions(_OfDelay):
    """The mean log loss over the rows that are no repetition, so that each impression counts once."""

    refuses_list_loss: ClassVar[str] = "counts each impression once; a list loss would count repeated ones twice"

    def __init__(self, options: FakeNegativesOptions) -> None:
        self.options = options

    def of_probability(
        self, p: LogProbability, label_B: Tensor, batch: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> Tensor:
        first_B = self.counted(batch, label_B)
        loss_B = weighted(log_loss(p, label_B), batch)
        return (loss_B * first_B).sum() / first_B.sum().clamp(min=1)

    def counted(self, batch: Mapping[str, Tensor], label_B: Tensor) -> Tensor:
        return 1 - batch[f"label/{self.options.late}"]
