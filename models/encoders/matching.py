"""Finds the behaviours that have a value in common with the candidate, by the rows of the vocabulary."""

import torch
from torch import Tensor

from models.encoders.base import Keys

NO_ROW = -1  # of no behaviour

# Shape legend: B candidates (or impressions), L behaviours, V values of a feature.


def have_same_value(keys: Keys, columns: slice, first_known_row: int, mask_BL: Tensor) -> Tensor:
    """Whether a behaviour has a value of the candidate's in these columns, bool `[B, L]`; False for padding.

    Rows below `first_known_row` are missing or unknown values, which are equal to none.
    """
    of_target_BV = keys.target[..., columns]
    of_target_BV = torch.where(of_target_BV >= first_known_row, of_target_BV, NO_ROW)
    # Pair by pair of values, because comparisons along L cost the graph a tenth of those along a short last axis.
    match_BL = torch.zeros_like(mask_BL)
    for of_behaviours_BL in keys.behaviours[..., columns].unbind(-1):
        for of_target_B in of_target_BV.unbind(-1):
            match_BL = match_BL | (of_behaviours_BL == of_target_B.unsqueeze(-1))
    return match_BL & mask_BL
