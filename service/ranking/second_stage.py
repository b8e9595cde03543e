"""Applies the rules of a request to its fused scores."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from service.ranking.query import AppliedRules, Query
from service.rules.candidates import CandidateList
from service.rules.order.arrange import arrange
from service.rules.scenes import ChosenRules


class Reordered(NamedTuple):
    """Positions of the candidates in their order, int64 `[k]`, and the scores `[C]` after boosts."""

    order: np.ndarray
    scores: np.ndarray
    applied: AppliedRules


def apply_rules(
    chosen: ChosenRules,
    query: Query,
    inputs: Mapping[str, np.ndarray],
    predictions: np.ndarray,
    scores: np.ndarray,
    moment: int,
) -> Reordered:
    """Return the candidates of a request in the order that its rules allow. `inputs` are the graph's."""
    candidates = CandidateList(
        query.item_ids, inputs["item_keys"], inputs["item_numerics"], scores, predictions, query.sources
    )
    arrangement = arrange(chosen.bound, candidates, query.options.top_k or len(candidates), moment)
    applied = AppliedRules(chosen, arrangement.relaxed, arrangement.removed)
    return Reordered(arrangement.order, arrangement.scores, applied)
