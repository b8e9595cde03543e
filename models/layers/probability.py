"""Probabilities in log space: log p and log(1 - p), so that products of probabilities keep their precision."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class LogProbability(NamedTuple):
    """`yes` = log p and `no` = log(1 - p), each `[n]`; both stay finite and exact where p rounds to 0 or 1."""

    yes: Tensor
    no: Tensor


def of_logit(logit: Tensor) -> LogProbability:
    """p = sigmoid(logit)."""
    return LogProbability(logsigmoid(logit), logsigmoid(-logit))


def both(p: LogProbability, q: LogProbability) -> LogProbability:
    """p * q; 1 - pq = (1 - p) + p (1 - q), a sum of positive terms, so nothing cancels."""
    return LogProbability(p.yes + q.yes, torch.logaddexp(p.no, p.yes + q.no))


def mixture(p: LogProbability, if_yes: LogProbability, if_no: LogProbability) -> LogProbability:
    """p * if_yes + (1 - p) * if_no."""
    return LogProbability(
        torch.logaddexp(p.yes + if_yes.yes, p.no + if_no.yes),
        torch.logaddexp(p.yes + if_yes.no, p.no + if_no.no),
    )


def log_loss(p: LogProbability, label: Tensor) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)) per impression `[n]`; `label` float `[n]`."""
    return -(label * p.yes + (1 - label) * p.no)
