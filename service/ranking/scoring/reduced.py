"""Scores a request in a brown-out: with fewer behaviours, in two passes, or by the small version alone."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.bundle.loading import Bundle
from service.errors import InvalidRequest
from service.fusion import Formula
from service.ranking.degradation import Degradation, Degradations, Reason
from service.ranking.query import Query
from service.ranking.scoring.chunks import Scored
from service.rollout.brownout import (
    FEWER_BEHAVIOURS,
    SMALL_ALONE,
    TWO_PASSES,
    best_places,
    merged,
    second_pass_size,
    with_fewer_behaviours,
)
from service.rollout.serving import Live
from service.rules.bound import BoundRules

# Scores the candidates by a bundle, from named inputs, or with `places` only those at these positions.
Score = Callable[..., Awaitable[Scored]]


@dataclass(slots=True, eq=False)
class Reduced:
    """The result of a brown-out's scoring, in `step`; 0 if no step saved anything for this request.

    `inputs` are the named inputs that were scored. The task scores of `scored` are NaN for a candidate that only the
    first pass scored. `scores` are the final ones, float64 `[C]`. `by_model` is the number of candidates that have a
    score of the full model.
    """

    step: int
    inputs: Mapping[str, np.ndarray]
    scored: Scored
    scores: np.ndarray
    by_model: int

    @property
    def degraded(self) -> Degradations:
        return (Degradation(Reason.BROWNOUT, self.step),) if self.step else ()


async def score_reduced(
    step: int,
    live: Live,
    first: Live | None,
    query: Query,
    formula: Formula,
    inputs: Mapping[str, np.ndarray],
    score: Score,
    rules: BoundRules | None = None,
) -> Reduced:
    """Score a request in this step, or in the nearest lower one that saves something for it.

    Steps 2 and 3 need a bundle for the first pass with the feature schema of the version that ranks, and rules that
    read neither vectors nor task scores, because the full model gives them to some candidates only, or to none. Step 2
    needs a list that is longer than what the second pass scores. If the first pass fails, the full model scores all
    candidates.
    """
    bundle = live.bundle
    candidates = len(query.item_ids)
    cut = with_fewer_behaviours(inputs, bundle.layouts.max_behaviours)
    vectors = () if rules is None else rules.outputs
    # The small version scores all candidates, and the full model the best of them or none.
    alike = rules is None or not rules.reads_model
    saves = step >= SMALL_ALONE or (step == TWO_PASSES and second_pass_size(candidates) < candidates)
    small_formula = _formula_of(first, bundle, query, formula) if saves and alike else None
    if first is not None and small_formula is not None:
        by_small = await score(first.bundle, cut, candidates)
        if not by_small.failed:
            estimates = small_formula.fuse(by_small.predictions, cut["item_numerics"])
            if step == TWO_PASSES:
                return await _second_pass(estimates, by_small.seconds, bundle, formula, cut, score)
            no_predictions = np.full((len(bundle.tasks), candidates), np.nan, dtype=np.float32)
            scored = Scored(no_predictions, by_small.seconds, failed=False)
            return Reduced(SMALL_ALONE, cut, scored, estimates, 0)
    # The full model scores all candidates, with fewer behaviours.
    scored = await score(bundle, cut, candidates, vectors=vectors)
    scores = formula.fuse(scored.predictions, inputs["item_numerics"])
    return Reduced(0 if cut is inputs else FEWER_BEHAVIOURS, cut, scored, scores, _finite(scores))


async def _second_pass(
    estimates: np.ndarray,
    seconds: float,
    bundle: Bundle,
    formula: Formula,
    inputs: Mapping[str, np.ndarray],
    score: Score,
) -> Reduced:
    """Score by the full model the best candidates by `estimates` `[C]`, the fused scores of the first pass, which took
    `seconds`.

    If the full model fails, the first pass's order stays.
    """
    numerics = inputs["item_numerics"]
    places = best_places(estimates)
    second = await score(bundle, inputs, len(places), places=places)
    predictions = np.full((len(bundle.tasks), len(estimates)), np.nan, dtype=np.float32)
    scores = estimates
    by_model = 0
    if not second.failed:
        predictions[:, places] = second.predictions
        of_model = formula.fuse(second.predictions, numerics[places])
        scores = merged(estimates, of_model, places)
        by_model = _finite(of_model)
    scored = Scored(predictions, seconds + second.seconds, second.failed)
    return Reduced(TWO_PASSES, inputs, scored, scores, by_model)


def _formula_of(first: Live | None, bundle: Bundle, query: Query, formula: Formula) -> Formula | None:
    """The request's fusion bound to the first pass.

    None without a first pass, if it reads other inputs, or if the request weights a task that the small model lacks.
    """
    if first is None or first.bundle.layouts.inputs_fingerprint != bundle.layouts.inputs_fingerprint:
        return None
    small_formula = first.fusion.formulas[formula.profile]
    if not query.options.weights:
        return small_formula
    try:
        return first.fusion.with_weights(small_formula, query.options.weights)
    except InvalidRequest:
        return None


def _finite(scores: np.ndarray) -> int:
    return int(np.count_nonzero(np.isfinite(scores)))
