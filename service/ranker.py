"""Owns a ranking: one straight list of verbs from a checked request to ordered candidates."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter, time

import numpy as np

from service.assemble import assemble, pack_raw
from service.bundle import Bundle
from service.deadline import Deadline
from service.fusion import Formula
from service.layouts import Layouts
from service.live import Follower, Live
from service.metrics import Metrics
from service.store.reader import Reader, Stored
from service.store.wire import StoreDown

log = logging.getLogger("funnelrank.ranker")


@dataclass(frozen=True, slots=True)
class Query:
    """A checked request. `own_features` are candidates' own values by place; `weights` replace the profile's for this request;
    `timestamp` is the moment in milliseconds to rank as of, now where it is None.
    """

    user_id: str
    item_ids: Sequence[str]
    own_features: Mapping[int, Mapping[str, object]]
    context: Mapping[str, object]
    scene: str | None = None
    top_k: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    explain: bool = False
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ordered candidates, best first, at most `top_k` of them (k below).

    `scores` float64 [k], `predictions` float32 [tasks, k], `parts` float64 [formula's tasks, k] where the request asked to explain.
    NaN stands where the model gave no score.
    """

    live: Live
    formula: Formula
    item_ids: Sequence[str]
    scores: np.ndarray
    predictions: np.ndarray
    parts: np.ndarray | None
    degraded: list[str]
    requested: int
    scored: int


@dataclass(frozen=True)
class Ranker:
    """What a ranking needs, handed in once."""

    follower: Follower
    reader: Reader
    metrics: Metrics

    async def rank(self, query: Query, deadline: Deadline) -> Ranking:
        """Rank a request's candidates. Raises ServiceError; what the store or the model cannot give is a degraded answer instead."""
        live = self.follower.current()
        bundle, stages, started = live.bundle, self.metrics.stages, perf_counter()
        formula = live.fusion.for_scene(query.scene)
        if query.weights:
            formula = live.fusion.with_weights(formula, query.weights)
        context = pack_raw(bundle.layouts.context, query.context, "context") if query.context else bundle.layouts.context.default_row
        degraded: list[str] = []

        stored = await self._fetch(bundle.layouts, query, deadline, degraded)
        fetched = perf_counter()
        stages["store"].observe(fetched - started)

        assembled = assemble(
            bundle.layouts, stored, query.user_id, query.item_ids, query.own_features, context, query.timestamp or int(time() * 1000)
        )
        if stored is not None:
            note_unknown(degraded, assembled.unknown_user, assembled.unknown_items)
        packed = perf_counter()
        stages["assemble"].observe(packed - fetched)
        self.metrics.candidates.observe(len(query.item_ids))
        self.metrics.behaviours.observe(assembled.behaviours)

        deadline.check("scoring")
        predictions = score(bundle, assembled.inputs, len(query.item_ids), degraded)
        scored_at = perf_counter()
        stages["score"].observe(scored_at - packed)

        scores = formula.fuse(predictions)
        scored = int(np.isfinite(scores).sum())
        if 0 < scored < len(scores):
            degraded.append(f"unscored_items:{len(scores) - scored}")
        elif not scored and "model_failed" not in degraded:
            degraded.append("model_failed")
        best = order(scores, query.top_k)
        ranking = Ranking(
            live=live,
            formula=formula,
            item_ids=[query.item_ids[i] for i in best.tolist()],
            scores=scores[best],
            predictions=predictions[:, best],
            parts=formula.parts(predictions)[:, best] if query.explain else None,
            degraded=degraded,
            requested=len(scores),
            scored=scored,
        )
        stages["fuse"].observe(perf_counter() - scored_at)
        for reason in degraded:
            self.metrics.degraded.labels(reason.partition(":")[0]).inc()
        return ranking

    async def _fetch(self, layouts: Layouts, query: Query, deadline: Deadline, degraded: list[str]) -> Stored | None:
        """The stored rows; None, and a word in `degraded`, where the store does not answer in its time."""
        try:
            stored = await self.reader.fetch(layouts, query.user_id, query.item_ids, deadline.remaining(), query.timestamp)
        except StoreDown:
            deadline.check("Redis answered")
            degraded.append("store_unavailable")
            return None
        self.metrics.item_cache.bring_over_soon(self.reader.cache_counts)
        if stored.corrupt:
            degraded.append(f"corrupt_rows:{sum(stored.corrupt.values())}")
            for entity, count in stored.corrupt.items():
                self.metrics.corrupt_rows.labels(entity).inc(count)
        return stored


def note_unknown(degraded: list[str], user: bool, items: int) -> None:
    if user:
        degraded.append("unknown_user")
    if items:
        degraded.append(f"unknown_items:{items}")


def score(bundle: Bundle, inputs: Mapping[str, np.ndarray], candidates: int, degraded: list[str]) -> np.ndarray:
    """Task scores float32 `[tasks, C]`; a model that fails gives NaN and a word in `degraded`, not an error to the caller."""
    try:
        return bundle.score({name: array for name, array in inputs.items() if name in bundle.inputs})
    except Exception:
        log.exception("model %s failed", bundle.label)
        degraded.append("model_failed")
        return np.full((len(bundle.tasks), candidates), np.nan, dtype=np.float32)


def order(scores: np.ndarray, top_k: int | None) -> np.ndarray:
    """Places of the best candidates, best first; ties, and those without a score at the end, in the order of the request."""
    with_last = np.where(np.isfinite(scores), scores, -np.inf)
    return np.argsort(-with_last, kind="stable")[:top_k]
