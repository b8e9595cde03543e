"""The softmax loss: cross entropy between the positives of a list and the softmax of its scores.

Bruch et al., An Analysis of the Softmax Cross Entropy Loss for Learning-to-Rank with Binary Relevance, ICTIR 2019,
equation 3 (ListNet's top-one loss, Cao et al., ICML 2007, for labels of 0 and 1). For a list with positives P and log
odds s: -1 / |P| sum_{i in P} log(exp(s_i) / sum_j exp(s_j)).
"""

from typing import Literal

import torch
from torch import Tensor

from models.layers.probability import LogProbability
from models.list_losses.base import ListLossOptions, Lists, log_odds, quotient

# Shape legend: B impressions, G lists.


class SoftmaxOptions(ListLossOptions):
    """Softmax cross entropy over the impressions of a list; it bounds nDCG from below."""

    type: Literal["softmax"]

    def loss(self, p: LogProbability, label_B: Tensor, lists: Lists, density_B: Tensor | None) -> Tensor:
        odds_B = log_odds(p)
        log_share_B = odds_B - lists.log_sum_exp(odds_B)[lists.place]
        of_list_G = -quotient(lists.sums(torch.where(label_B > 0, log_share_B, 0.0)), lists.sums(label_B))
        return lists.mean(of_list_G, label_B)
