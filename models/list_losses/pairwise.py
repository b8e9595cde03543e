"""The pairwise logistic loss: every positive of a list against every negative of it.

Burges et al., Learning to Rank using Gradient Descent (RankNet), ICML 2005, equation 3 with the target 1 for a positive
above a negative. For a list with positives P, negatives N and log odds s: 1 / (|P| |N|) sum_{i in P, j in N} log(1 +
exp(s_j - s_i)).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from models.layers.probability import LogProbability
from models.list_losses.base import ListLossOptions, Lists, log_odds, quotient

# Shape legend: B impressions, G lists, Q pairs.


class PairwiseOptions(ListLossOptions):
    """Logistic loss over the pairs of a list; a smooth form of 1 - AUC within lists, which is what GAUC measures."""

    type: Literal["pairwise"]

    def loss(self, p: LogProbability, label_B: Tensor, lists: Lists, density_B: Tensor | None) -> Tensor:
        odds_B = log_odds(p)
        pairs = pairs_of(label_B, lists)
        loss_Q = softplus(odds_B[pairs.negative] - odds_B[pairs.positive])
        weight_Q = torch.ones_like(loss_Q)
        if lists.weight is not None:
            weight_Q = lists.weight[pairs.positive] * lists.weight[pairs.negative]
        place_Q = lists.place[pairs.positive]
        total_G = loss_Q.new_zeros(lists.count).index_add(0, place_Q, loss_Q * weight_Q)
        weight_G = loss_Q.new_zeros(lists.count).index_add(0, place_Q, weight_Q)
        return lists.mean(quotient(total_G, weight_G), label_B)


class Pairs(NamedTuple):
    """The rows of the positive and of the negative of each pair, int64 `[Q]`."""

    positive: Tensor
    negative: Tensor


def pairs_of(label_B: Tensor, lists: Lists) -> Pairs:
    """Every pair of a positive and a negative of one list. Time and memory grow with the pairs, not with B squared."""
    # Sort the negatives by list: those of a list are contiguous.
    negatives = torch.nonzero(label_B <= 0)[:, 0]
    negatives = negatives[torch.argsort(lists.place[negatives], stable=True)]
    count_G = torch.bincount(lists.place[negatives], minlength=lists.count)
    first_G = count_G.cumsum(0) - count_G
    # Repeat each positive once per negative of its list, and number the repetitions 0, 1, ...
    positives = torch.nonzero(label_B > 0)[:, 0]
    times = count_G[lists.place[positives]]
    positive_Q = torch.repeat_interleave(positives, times)
    start_Q = torch.repeat_interleave(times.cumsum(0) - times, times)
    number_Q = torch.arange(len(positive_Q), device=positive_Q.device) - start_Q
    return Pairs(positive_Q, negatives[first_G[lists.place[positive_Q]] + number_Q])
