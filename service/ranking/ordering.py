"""Orders candidates by their ranking scores."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.fusion import Formula
from service.ranking.query import Query, Ranked


def ranked_in_order(
    query: Query,
    formula: Formula,
    best: np.ndarray,
    scores: np.ndarray,
    predictions: np.ndarray,
    numerics: np.ndarray,
) -> Ranked:
    """Return the candidates of a query at the positions `best`, int64 `[k]`.

    `scores` is `[C]`, `predictions` `[tasks, C]`, `numerics` `[C, N]`.
    """
    explained = None
    if query.options.explain:
        columns = formula.explain(predictions, numerics)
        explained = [replace(column, values=column.values[best], parts=column.parts[best]) for column in columns]
    item_ids: Sequence[str] = list(map(query.item_ids.__getitem__, best.tolist()))
    return Ranked(item_ids, scores.take(best), predictions.take(best, 1), explained)


def order(scores: np.ndarray, scored: int, top_k: int | None) -> np.ndarray:
    """Return the positions of the best candidates, best first.

    Equal scores, and all candidates without a finite score, keep the order of the request.
    """
    with_last = scores if scored == len(scores) else np.where(np.isfinite(scores), scores, -np.inf)
    return (-with_last).argsort(kind="stable")[:top_k]
