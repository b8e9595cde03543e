"""Owns a ranking: one straight list of verbs from a checked request to ordered candidates."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter, time
from typing import Final

import numpy as np
from starlette.requests import ClientDisconnect

from features.layouts import Layouts
from service.bundle.loading import Bundle
from service.errors import DeadlineExceeded
from service.fusion import Chosen, Explained, Formula
from service.metrics.metrics import Metrics
from service.ranking.assemble import assemble, pack_raw
from service.ranking.deadline import Deadline
from service.ranking.scheduler import Turns
from service.rollout.follower import Follower
from service.rollout.observers import AnsweredRanking
from service.rollout.serving import Live, ServingSnapshot
from service.store.redis.reader import Reader, Stored
from service.store.redis.wire import StoreDown

log = logging.getLogger("funnelrank.ranker")
PER_CANDIDATE: Final = frozenset({"item_keys", "item_numerics"})


@dataclass(slots=True, eq=False)
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


@dataclass(slots=True, eq=False)
class Ranking:
    """Ordered candidates, best first, at most `top_k` of them (k below).

    `scores` float64 [k], `predictions` float32 [tasks, k], `explained` with columns [k] where the request asked to explain.
    NaN stands where the model gave no score.
    """

    live: Live
    formula: Formula
    item_ids: Sequence[str]
    scores: np.ndarray
    predictions: np.ndarray
    explained: Sequence[Explained] | None
    degraded: list[str]
    requested: int
    scored: int
    chosen: Chosen | None = None
    computed_seconds: float = 0.0


def _nobody_left() -> bool:
    return False


@dataclass(frozen=True)
class Ranker:
    """What a ranking needs, handed in once. `chunk` is how many candidates are scored before other requests have their turn."""

    follower: Follower
    reader: Reader
    metrics: Metrics
    chunk: int = 500
    turns: Turns = field(default_factory=Turns)

    async def rank(self, query: Query, deadline: Deadline, gone: Callable[[], bool] = _nobody_left) -> Ranking:
        """Rank a request's candidates. Raises ServiceError; what the store or the model cannot give is a degraded answer instead.

        `gone` says whether the caller has left: then ClientDisconnect is raised instead of working on.
        """
        snapshot = self.follower.snapshot
        live = snapshot.for_user(query.user_id)
        bundle = live.bundle
        stages = self.metrics.stages
        started = perf_counter()
        formula, chosen = live.fusion.for_user(query.scene, query.user_id)
        if query.weights:
            formula = live.fusion.with_weights(formula, query.weights)
        context = (
            pack_raw(bundle.layouts.context, query.context, "context")
            if query.context
            else bundle.layouts.context.default_row
        )
        degraded: list[str] = []

        try:
            stored = await self._fetch(bundle.layouts, query, deadline, degraded)
        except DeadlineExceeded:
            self._observe(snapshot, live, query, formula)
            raise
        fetched = perf_counter()
        stages["store"].observe(fetched - started)

        assembled = assemble(
            bundle.layouts,
            stored,
            query.user_id,
            query.item_ids,
            query.own_features,
            context,
            query.timestamp or int(time() * 1000),
        )
        if stored is not None:
            note_unknown(degraded, assembled.unknown_user, assembled.unknown_items)
        packed = perf_counter()
        stages["assemble"].observe(packed - fetched)
        self.metrics.candidates.observe(len(query.item_ids))
        self.metrics.behaviours.observe(assembled.behaviours)

        inputs = assembled.inputs
        try:
            predictions, scoring = await self._score(bundle, inputs, len(query.item_ids), degraded, deadline, gone)
        except DeadlineExceeded:
            self._observe(snapshot, live, query, formula, inputs)
            raise
        scored_at = perf_counter()
        stages["score"].observe(scoring)

        numerics = inputs["item_numerics"]
        scores = formula.fuse(predictions, numerics)
        ranking = _ordered(live, formula, query, scores, predictions, numerics, degraded, chosen)
        fusing = perf_counter() - scored_at
        stages["fuse"].observe(fusing)
        ranking.computed_seconds = packed - fetched + scoring + fusing
        for reason in degraded:
            self.metrics.degraded.labels(reason.partition(":")[0]).inc()
        if chosen is not None:
            self.metrics.experiments.labels(chosen.experiment, chosen.arm).inc()
        self._observe(snapshot, live, query, formula, inputs, predictions, scores)
        return ranking

    async def _score(
        self,
        bundle: Bundle,
        inputs: Mapping[str, np.ndarray],
        candidates: int,
        degraded: list[str],
        deadline: Deadline,
        gone: Callable[[], bool],
    ) -> tuple[np.ndarray, float]:
        """Task scores float32 `[tasks, C]` and the seconds they took, a chunk at a time: a long list does not keep short ones waiting."""
        used = bundle.own(inputs)
        parts = []
        spent = 0.0
        for start in range(0, candidates, self.chunk):
            part = (
                used
                if candidates <= self.chunk
                else {n: a[start : start + self.chunk] if n in PER_CANDIDATE else a for n, a in used.items()}
            )
            await self.turns.take()
            try:
                if gone():
                    raise ClientDisconnect
                deadline.check("scoring")
                started = perf_counter()
                parts.append(score(bundle, part, min(self.chunk, candidates - start), degraded))
                spent += perf_counter() - started
            finally:
                self.turns.give()
            if "model_failed" in degraded:
                return np.full((len(bundle.tasks), candidates), np.nan, dtype=np.float32), spent
        return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)), spent

    def _observe(
        self,
        snapshot: ServingSnapshot,
        live: Live,
        query: Query,
        formula: Formula,
        inputs: Mapping[str, np.ndarray] | None = None,
        predictions: np.ndarray | None = None,
        scores: np.ndarray | None = None,
    ) -> None:
        """Show a ranking to the observers; what was not computed before its deadline is None."""
        self.follower.observers.answered(
            AnsweredRanking(
                snapshot=snapshot,
                live=live,
                user_id=query.user_id,
                profile=formula.profile,
                inputs=inputs,
                predictions=predictions,
                scores=scores,
                failed=scores is None or not bool(np.isfinite(scores).all()),
                own_features=bool(query.own_features),
            )
        )

    async def _fetch(self, layouts: Layouts, query: Query, deadline: Deadline, degraded: list[str]) -> Stored | None:
        """The stored rows; None, and a word in `degraded`, where the store does not answer in its time."""
        try:
            stored = await self.reader.fetch(
                layouts, query.user_id, query.item_ids, deadline.remaining(), query.timestamp
            )
        except StoreDown:
            deadline.check("Redis answered")
            degraded.append("store_unavailable")
            return None
        if stored.unread:
            degraded.append(f"store_unavailable:{stored.unread}")
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


def score(bundle: Bundle, inputs: dict[str, np.ndarray], candidates: int, degraded: list[str]) -> np.ndarray:
    """Task scores float32 `[tasks, C]`; a model that fails gives NaN and a word in `degraded`, not an error to the caller."""
    try:
        return bundle.score(inputs)
    except Exception:
        log.exception("model %s failed", bundle.label)
        degraded.append("model_failed")
        return np.full((len(bundle.tasks), candidates), np.nan, dtype=np.float32)


def _ordered(
    live: Live,
    formula: Formula,
    query: Query,
    scores: np.ndarray,
    predictions: np.ndarray,
    numerics: np.ndarray,
    degraded: list[str],
    chosen: Chosen | None,
) -> Ranking:
    scored = int(np.count_nonzero(np.isfinite(scores)))
    if 0 < scored < len(scores):
        degraded.append(f"unscored_items:{len(scores) - scored}")
    elif not scored and "model_failed" not in degraded:
        degraded.append("model_failed")
    best = order(scores, scored, query.top_k)
    explained = None
    if query.explain:
        told = formula.explain(predictions, numerics)
        explained = [replace(e, values=e.values[best], parts=e.parts[best]) for e in told]
    return Ranking(
        live=live,
        formula=formula,
        item_ids=list(map(query.item_ids.__getitem__, best.tolist())),
        scores=scores.take(best),
        predictions=predictions.take(best, 1),
        explained=explained,
        degraded=degraded,
        requested=len(scores),
        scored=scored,
        chosen=chosen,
    )


def order(scores: np.ndarray, scored: int, top_k: int | None) -> np.ndarray:
    """Places of the best candidates, best first; ties, and all beyond the `scored` finite ones, in the order of the request."""
    with_last = scores if scored == len(scores) else np.where(np.isfinite(scores), scores, -np.inf)
    return (-with_last).argsort(kind="stable")[:top_k]
