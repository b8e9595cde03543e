"""Applies the rules of a request to its fused scores, page by page."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from service.errors import invalid
from service.ranking.query import AppliedRules, Move, Query, RulesExplained
from service.ranking.scoring.chunks import Scored
from service.rules.bound import BoundRules
from service.rules.candidates import CandidateList, columns_of
from service.rules.order.arrange import Arrangement, arranging
from service.rules.order.search import MOST_UNITS
from service.rules.order.served import Served
from service.rules.pages import FIELD, PageBinding, served_of, token_of
from service.rules.scenes import ChosenRules
from service.store.base import StoredRows
from service.store.shown import DAY_MS, Exposures, exposures_of


class Reordered(NamedTuple):
    """Positions of the candidates in their order, int64 `[k]`, and the scores `[C]` after boosts.

    `applied` is None without rules. `paused` is the time in seconds for which other requests ran.
    """

    order: np.ndarray
    scores: np.ndarray
    applied: AppliedRules | None = None
    paused: float = 0.0


@dataclass(frozen=True, eq=False)
class SecondStage:
    """The rules of one request and the earlier pages of its list. `key` authenticates tokens."""

    chosen: ChosenRules
    binding: PageBinding
    served: Served
    key: bytes

    async def apply(
        self, query: Query, candidates: CandidateList, exposures: Exposures, moment: int, check: Callable[[], None]
    ) -> Reordered:
        """Bring the candidates into the order that the rules allow. `check` may raise after other requests have run."""
        paused = 0.0

        async def pause() -> None:
            nonlocal paused
            started = perf_counter()
            await asyncio.sleep(0)
            paused += perf_counter() - started
            check()

        # The search gives way after each slice of its work.
        async def arranged(rules: BoundRules, most_units: int) -> Arrangement:
            length = query.options.top_k or len(candidates)
            steps = arranging(rules, candidates, length, moment, exposures, self.served, most_units)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    arrangement: Arrangement = end.value
                    return arrangement
                await pause()

        # An explanation arranges the candidates once per rule: with the first rule, the first two, and so on.
        explained = None
        if query.options.explain:
            arrangement, explained = await self._explained(candidates, arranged, pause)
        else:
            arrangement = await arranged(self.chosen.bound, MOST_UNITS)
        applied = AppliedRules(
            self.chosen,
            arrangement.relaxed,
            arrangement.acted,
            arrangement.removed,
            self._next_page(candidates, arrangement),
            len(self.served.item_ids),
            explained,
        )
        return Reordered(arrangement.order, arrangement.scores, applied, paused)

    def _next_page(self, candidates: CandidateList, arrangement: Arrangement) -> str | None:
        if not arrangement.remaining:
            return None
        item_ids = [candidates.item_ids[place] for place in arrangement.order.tolist()]
        return token_of(self.binding, self.served.and_then(item_ids, arrangement.values), self.key)

    async def _explained(
        self,
        candidates: CandidateList,
        arranged: Callable[[BoundRules, int], Awaitable[Arrangement]],
        pause: Callable[[], Awaitable[None]],
    ) -> tuple[Arrangement, RulesExplained]:
        """Arrange with the first rule, with the first two, and so on: each difference is the effect of the last rule
        added.
        """
        bound = self.chosen.bound
        first_rank = len(self.served.item_ids) + 1
        fused = np.where(np.isfinite(candidates.scores), candidates.scores, 0.0)
        count = len(bound.rules)
        # The answer is the one without explain. All other steps together have a budget as large as its own.
        answer = await arranged(bound, MOST_UNITS)
        most_units = MOST_UNITS // max(1, count)
        arrangement = await arranged(bound.first(0), most_units)
        moves: dict[int, list[Move]] = {}
        paid: dict[int, float] = {}
        for rule in range(count):
            # Let other requests run: every step costs as much as a whole ranking without explain.
            await pause()
            before = {place: rank for rank, place in enumerate(arrangement.order.tolist(), first_rank)}
            earlier = arrangement
            arrangement = answer if rule + 1 == count else await arranged(bound.first(rule + 1), most_units)
            paid[rule] = float(fused[earlier.order].sum() - fused[arrangement.order].sum())
            for rank, place in enumerate(arrangement.order.tolist(), first_rank):
                if before.get(place) != rank:
                    moves.setdefault(place, []).append(Move(rule, before.get(place), rank))
        return answer, RulesExplained([moves.get(place, []) for place in answer.order.tolist()], paid)


def second_stage(chosen: ChosenRules | None, query: Query, model: str, moment: int, key: bytes) -> SecondStage | None:
    """Return the second stage of a request; None without rules. Raises InvalidRequest for a token of another
    request.
    """
    token = query.options.page
    if chosen is None:
        if token is not None:
            raise invalid(FIELD, "the scene has no rules, so its rankings have no pages")
        return None
    binding = PageBinding(query.user_id, model, query.options.scene, chosen.name, chosen.revision, moment // DAY_MS)
    served = Served() if token is None else served_of(token, binding, key)
    return SecondStage(chosen, binding, served, key)


async def reordered(
    rules: SecondStage,
    query: Query,
    inputs: Mapping[str, np.ndarray],
    scored: Scored,
    scores: np.ndarray,
    stored: StoredRows | None,
    moment: int,
    check: Callable[[], None],
) -> Reordered:
    """Bring the candidates into the order that the rules allow."""
    candidates = CandidateList(
        query.item_ids,
        *columns_of(inputs),
        scores,
        scored.predictions,
        query.sources,
        scored.vectors,
    )
    exposures = exposures_of(None if stored is None else stored.shown)
    return await rules.apply(query, candidates, exposures, moment, check)


def shown_entries(stored: StoredRows | None, bound: BoundRules | None) -> bytes | None:
    """What the user had been shown, as the rules read it; None if no rule does."""
    if bound is None or not bound.exposure_days:
        return None
    return b"" if stored is None else stored.shown or b""
