"""Ranks the candidates of one request: fetch, assemble, score, fuse, apply rules, order."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np

from service.bundle.loading import Bundle
from service.errors import DeadlineExceeded
from service.metrics.metrics import Metrics
from service.ranking.checking import Checked, check_request
from service.ranking.counting import count_assembled, count_ranking, count_scored, count_store
from service.ranking.deadline import Deadline, check_waiting, nobody_left
from service.ranking.degradation import Degradation, Degradations, Reason
from service.ranking.inputs.candidate_features import CandidateValues, assembled_inputs
from service.ranking.inputs.completeness import check_own_features, of_rows, of_scores
from service.ranking.inputs.inline_user import packed_user, with_packed_user
from service.ranking.ordering import order, ranked_in_order
from service.ranking.query import Computation, Query, Ranking, SecondsSpent
from service.ranking.scoring.chunks import Scored, score_in_chunks
from service.ranking.scoring.reduced import score_reduced
from service.ranking.scoring.scheduler import Scheduler
from service.ranking.second_stage import Reordered, reordered, shown_entries
from service.rollout.following.follower import Follower
from service.rollout.observing.observers import AnsweredRanking
from service.rollout.recent import Assembly
from service.rollout.serving import Live, ServingLine
from service.rules.pages import random_page_key
from service.store.base import FeatureStore, StoreDown, StoredRows
from service.tracing.marks import Marks, begin


@dataclass(frozen=True, slots=True)
class RankingRun:
    """How one ranking is made: until when and for whom, in which step of the brown-out (0: none), and who watches.

    `marks` gets the stages if the request is traced. `counted` gets the sizes and the times of the stages; None if the
    ranking is not counted.
    """

    deadline: Deadline
    has_left: Callable[[], bool] = nobody_left
    step: int = 0
    marks: Marks | None = None
    counted: Metrics | None = None


@dataclass(frozen=True)
class Ranker:
    """Ranks requests on one worker. After `chunk` scored candidates, other requests may score theirs."""

    follower: Follower
    reader: FeatureStore
    metrics: Metrics
    chunk: int = 500
    page_key: bytes = field(default_factory=random_page_key, repr=False)
    scheduler: Scheduler = field(default_factory=Scheduler)

    async def rank(
        self,
        query: Query,
        deadline: Deadline,
        has_left: Callable[[], bool] = nobody_left,
        step: int = 0,
        marks: Marks | None = None,
    ) -> Ranking:
        """Rank a request's candidates. If the store or the model fails, the answer is degraded instead of an error.

        `has_left` says whether the caller has closed the connection. `step` is that of the brown-out, 0 without one.
        `marks` gets the stages if the request is traced. Raises ServiceError, and CallerLeft if the caller has left.
        """
        line = self.follower.snapshot.line_of(query.options.scene)
        live = line.for_user(query.user_id)
        # First check everything that needs no store, so that a bad request costs no round trip.
        started = perf_counter()
        checked, answered = await self._checked(query, line, live)
        try:
            # Read the stored rows.
            begin(marks, "store")
            stored, of_store = await self._fetch(query, live, checked, deadline)
            fetching = perf_counter() - started
            count_store(self.metrics, stored, fetching)
            run = RankingRun(deadline, has_left, step, marks, self.metrics)
            ranking = await self._computed(query, checked, answered, stored, run)
        except DeadlineExceeded:
            # Rankings that missed their deadline are shown to the observers too.
            self.follower.observers.answered(answered)
            raise
        ranking.degraded = of_store + ranking.degraded
        ranking.computation.seconds = ranking.computation.seconds._replace(fetching=fetching)
        # Count it and show it to the observers.
        count_ranking(self.metrics, ranking)
        self.follower.observers.answered(answered)
        return ranking

    async def preview(self, query: Query, deadline: Deadline, live: Live | None) -> Ranking:
        """Rank with a loaded version, whoever the user is; None: with the user's own.

        The ranking is not counted and not shown to the observers. Raises what `rank` raises.
        """
        line = self.follower.snapshot.line_of(query.options.scene)
        live = live or line.for_user(query.user_id)
        checked, answered = await self._checked(query, line, live)
        stored, of_store = await self._fetch(query, live, checked, deadline)
        ranking = await self._computed(query, checked, answered, stored, RankingRun(deadline))
        ranking.degraded = of_store + ranking.degraded
        return ranking

    async def _checked(self, query: Query, line: ServingLine, live: Live) -> tuple[Checked, AnsweredRanking]:
        """Return the request as checked against a version, and what the observers will see of it."""
        checked = await check_request(live, query, self.page_key)
        return checked, AnsweredRanking(line, live, checked.formula.profile)

    async def _computed(
        self, query: Query, checked: Checked, answered: AnsweredRanking, stored: StoredRows | None, run: RankingRun
    ) -> Ranking:
        """Compute a ranking from the stored rows, and add what was computed to `answered`."""
        live = answered.live
        bundle = live.bundle
        formula = checked.formula
        rules = checked.rules
        bound = None if rules is None else rules.chosen.bound
        candidates = len(query.item_ids)
        # Assemble the graph's inputs.
        begin(run.marks, "assemble")
        assembled, assembling = await assembled_inputs(
            bundle.layouts, stored, query, checked.values, checked.context, checked.moment
        )
        degraded = of_rows(stored, assembled) + checked.degraded
        if query.own_features or checked.values.missing:
            degraded += check_own_features(bundle, bound, stored, checked.values)
        inputs: Mapping[str, np.ndarray] = assembled.inputs
        count_assembled(run.counted, inputs, candidates, assembling)
        numerics = inputs["item_numerics"]
        answered.request = _assembly(bundle, query, checked.values, inputs)
        # Score them, taking turns with other requests.
        begin(run.marks, "score")
        brownout = None
        if run.step:
            score = partial(self._score, run)
            first_pass = answered.line.first_pass
            brownout = await score_reduced(run.step, live, first_pass, query, formula, inputs, score, bound)
            scored = brownout.scored
        else:
            vectors = () if bound is None else bound.outputs
            scored = await self._score(run, bundle, inputs, candidates, vectors=vectors)
        scored_at = perf_counter()
        count_scored(run.counted, scored.seconds)
        # Fuse the task scores and order the candidates.
        begin(run.marks, "fuse")
        scores = formula.fuse(scored.predictions, numerics) if brownout is None else brownout.scores
        finite = int(np.count_nonzero(np.isfinite(scores)))
        if rules is None:
            ordered = Reordered(order(scores, finite, query.options.top_k), scores)
        else:
            begin(run.marks, "rules")
            check = partial(check_waiting, run.deadline, run.has_left, "the rules were applied")
            ordered = await reordered(rules, query, inputs, scored, scores, stored, checked.moment, check)
        ranked = ranked_in_order(query, formula, ordered.order, ordered.scores, scored.predictions, numerics)
        degraded += of_scores(candidates, finite, scored.failed)
        fusing = perf_counter() - scored_at - ordered.paused
        # Describe the ranking.
        answered.predictions = scored.predictions
        answered.scores = scores
        answered.failed = scored.failed or finite < candidates
        by_model = finite
        if brownout is not None:
            inputs = brownout.inputs
            degraded += brownout.degraded
            by_model = brownout.by_model
            answered.predictions = None  # the shadow repeats whole rankings only
        coverage = (candidates, by_model)
        entries = shown_entries(stored, bound)
        spent = SecondsSpent(0.0, assembling, scored.seconds, fusing)
        computation = Computation(checked.moment, inputs, scored.predictions, scores, coverage, entries, spent)
        return Ranking(live, formula, checked.chosen, ranked, degraded, ordered.applied, computation)

    async def _fetch(
        self, query: Query, live: Live, checked: Checked, deadline: Deadline
    ) -> tuple[StoredRows | None, Degradations]:
        """Return the stored rows (None if the store misses its deadline), with the request's own user in them, and the
        degradations. Raises InvalidRequest.

        As in training, a behaviour counts if it is older than the time of the request by more than the schema's lag. If
        the request gives no time and the schema has no lag, behaviours of the present millisecond count too.
        """
        layouts = live.bundle.layouts
        rules = checked.rules
        moment = checked.moment
        before = moment - layouts.lag_ms if layouts.lag_ms or query.options.timestamp else moment + 1
        user = packed_user(layouts, query, before)
        item_ids = query.item_ids if user is None else user.item_ids
        shown = rules is not None and rules.chosen.bound.exposure_days > 0
        stored: StoredRows | None = None
        degraded: Degradations = ()
        try:
            stored = await self.reader.fetch(
                layouts, query.user_id, item_ids, deadline.remaining(), before, shown, query.options.scene
            )
        except StoreDown:
            deadline.check("Redis answered")
            degraded = (Degradation(Reason.STORE_UNAVAILABLE),)
        if stored is not None and stored.unread:
            degraded = (Degradation(Reason.STORE_UNAVAILABLE, stored.unread),)
        if stored is not None and stored.corrupt:
            degraded += (Degradation(Reason.CORRUPT_ROWS, sum(stored.corrupt.values())),)
        if user is not None:
            stored = with_packed_user(layouts, user, len(query.item_ids), stored)
        return stored, degraded

    def _score(
        self,
        run: RankingRun,
        bundle: Bundle,
        inputs: Mapping[str, np.ndarray],
        candidates: int,
        places: np.ndarray | None = None,
        vectors: Sequence[str] = (),
    ) -> Awaitable[Scored]:
        check = partial(check_waiting, run.deadline, run.has_left, "scoring")
        return score_in_chunks(self.scheduler, bundle, inputs, candidates, self.chunk, check, places, vectors)


def _assembly(bundle: Bundle, query: Query, values: CandidateValues, inputs: Mapping[str, np.ndarray]) -> Assembly:
    """Describe a request for the observers."""
    return Assembly(
        bundle.layouts.inputs_fingerprint,
        query.user_id,
        inputs,
        query.item_ids,
        query.options.scene,
        query.sources,
        bool(values.own_items),
    )
