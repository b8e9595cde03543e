"""Measures what each step of a brown-out loses: nDCG@10 against the full ranking, on recent requests."""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np

from service.fusion import Formula
from service.rollout.brownout import best_places, merged, second_pass_size, with_fewer_behaviours
from service.rollout.recent import Assembly
from service.rollout.serving import Live

_MAX_SECONDS = 2.0
_TOP = 10


def brownout_losses(live: Live, first: Live, requests: Sequence[Assembly]) -> dict[str, float]:
    """Return the mean of 1 - nDCG@10 over the requests by step, as `degraded` names them; empty without requests.

    A request that a step does not change counts with a loss of 0.
    """
    losses: list[tuple[float, float, float]] = []
    end = perf_counter() + _MAX_SECONDS
    for request in requests:
        formula, _ = live.fusion.for_user(request.scene, request.user_id)
        full = _fused(live, formula, request.inputs)
        cut = with_fewer_behaviours(request.inputs, live.bundle.layouts.max_behaviours)
        shorter = full if cut is request.inputs else _fused(live, formula, cut)
        twice = shorter
        if second_pass_size(len(full)) < len(full):
            twice = _fused_twice(live, first, formula, cut)
        alone = _fused(first, first.fusion.formulas[formula.profile], cut)
        losses.append((1 - ndcg(shorter, full), 1 - ndcg(twice, full), 1 - ndcg(alone, full)))
        if perf_counter() > end:
            break
    if not losses:
        return {}
    means = np.mean(losses, axis=0)
    return {f"brownout:{step}": round(float(mean), 4) for step, mean in enumerate(means, 1)}


def ndcg(scores: np.ndarray, full: np.ndarray) -> float:
    """Return nDCG@10 of the order by `scores` `[C]` against the order by `full` `[C]`.

    The gain of a candidate is 10 for the first place of the full order, 9 for the second, and so on, 0 beyond the
    tenth; the discount is 1 / log2(1 + place) (Järvelin and Kekäläinen, 2002). Ties keep the order of the request.
    """
    top = min(_TOP, len(full))
    gains = np.zeros(len(full))
    gains[_order(full)[:top]] = np.arange(_TOP, _TOP - top, -1)
    discounts = 1 / np.log2(np.arange(2, top + 2))
    return float(gains[_order(scores)[:top]] @ discounts / (np.arange(_TOP, _TOP - top, -1) @ discounts))


def _order(scores: np.ndarray) -> np.ndarray:
    return (-np.where(np.isfinite(scores), scores, -np.inf)).argsort(kind="stable")


def _fused(live: Live, formula: Formula, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ranking scores of all candidates, float64 `[C]`."""
    bundle = live.bundle
    return formula.fuse(bundle.score(bundle.graph_inputs(inputs)), inputs["item_numerics"])


def _fused_twice(live: Live, first: Live, formula: Formula, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Ranking scores of two passes, float64 `[C]`."""
    bundle = live.bundle
    estimates = _fused(first, first.fusion.formulas[formula.profile], inputs)
    places = best_places(estimates)
    second = bundle.score(bundle.graph_inputs_at(inputs, places))
    return merged(estimates, formula.fuse(second, inputs["item_numerics"][places]), places)
