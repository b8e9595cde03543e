"""Tests the second stage inside a ranker: pages, explanations, pauses and deadlines."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from service.documents import Edit
from service.errors import CallerLeft, DeadlineExceeded, InvalidRequest
from service.metrics.metrics import Metrics
from service.ranking import second_stage
from service.ranking.deadline import Deadline
from service.ranking.query import Query, Ranking, RankingOptions
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.rules.definition.document import DOCUMENT
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.search import OrderSearch
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store

# Two rules that conflict on every list of two tags: the search has dead ends and is paused.
HARD = (
    {"type": "spread", "feature": "tag", "distance": 3},
    {"type": "quota", "feature": "topics", "at_most": 2, "window": 6},
    {"type": "quota", "feature": "topics", "at_most": 14, "first": 45},
)


@pytest.fixture
async def follower(registry: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> AsyncIterator[Follower]:
    reader = open_store(redis_server.url, 2000)
    follower = Follower(Settings(registry=registry), None, reader, Metrics())
    yield follower
    follower.close()
    reader.close()


async def ranker_with(follower: Follower, *rules: dict[str, Any]) -> Ranker:
    rule_sets = RuleSets.model_validate({"rules": {"default": rules}})
    DOCUMENT.change(follower.registry, DOCUMENT.whole(rule_sets), Edit("ann"))
    await follower.step()
    return Ranker(follower, follower.reader, follower.loader.metrics, page_key=b"key")


def query(n: int = 12, **options: Any) -> Query:
    own: dict[int, dict[str, object]] = {}
    rng = np.random.default_rng(1)
    for i in range(n):
        topics = [f"t{t}" for t in rng.choice(6, 2, replace=False)]
        own[i] = {"tag": f"g{i % 30}", "topics": topics, "price": float(i), "quality": 1}
    context: dict[str, object] = {"tab": 1, "hour": 2}
    return Query("712", [str(i) for i in range(n)], own, context, options=RankingOptions(**options))


async def rank(ranker: Ranker, asked: Query, timeout_ms: int = 60_000) -> Ranking:
    return await ranker.rank(asked, Deadline(timeout_ms))


async def test_every_step_of_explain_is_the_ranking_by_the_first_rules(follower: Follower) -> None:
    rules = [
        {"type": "block", "item_ids": ["5"]},
        {"type": "boost", "formula": "score + price", "when": {"feature": "price", "at_least": 6}},
        {"type": "pin", "item_id": "0", "position": 2},
    ]
    whole = await rank(await ranker_with(follower, *rules), query(explain=True, top_k=6))
    assert whole.rules is not None
    explained = whole.rules.explained
    assert explained is not None
    orders = []
    for count in range(4):
        first = await rank(await ranker_with(follower, *rules[:count]), query(top_k=6))
        orders.append(list(first.ranked.item_ids))
    assert list(whole.ranked.item_ids) == orders[-1]

    def rank_in(order: list[str], item: str) -> int | None:
        return order.index(item) + 1 if item in order else None

    for item, moves in zip(whole.ranked.item_ids, explained.moves, strict=True):
        steps = [(rank_in(before, item), rank_in(after, item)) for before, after in pairwise(orders)]
        expected = [(rule, *step) for rule, step in enumerate(steps) if step[1] is not None and step[0] != step[1]]
        assert [(move.rule, move.before, move.after) for move in moves] == expected


async def test_a_hard_search_lets_others_run(follower: Follower) -> None:
    ranker = await ranker_with(follower, *HARD)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(other())
    await asyncio.sleep(0)
    before = turns
    ranking = await rank(ranker, query(200, top_k=50))
    others.cancel()
    assert ranking.rules is not None
    assert ranking.rules.relaxed
    # One pause each for the store and for every hundred candidates with features.
    assert turns - before > 5
    assert len(set(ranking.ranked.item_ids)) == 50


async def test_a_deadline_that_passes_while_rules_are_applied_is_told_and_observed(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = await ranker_with(follower, *HARD)
    observed = []
    monkeypatch.setattr(follower.observers, "answered", observed.append)
    deadline = Deadline(60_000)
    passed = [False]

    def check(before: str) -> None:
        if before == "the rules were applied":
            passed[0] = True
            raise DeadlineExceeded("late")

    monkeypatch.setattr(Deadline, "check", lambda _deadline, before: check(before))
    with pytest.raises(DeadlineExceeded):
        await ranker.rank(query(200, top_k=50), deadline)
    assert passed == [True]
    assert [answered.failed for answered in observed] == [True]


async def test_rules_end_when_the_caller_has_left(follower: Follower) -> None:
    ranker = await ranker_with(follower, *HARD)
    asked = 0

    def has_left() -> bool:
        nonlocal asked
        asked += 1
        # Scoring asks once, before its only chunk.
        return asked > 1

    with pytest.raises(CallerLeft):
        await ranker.rank(query(200, top_k=50), Deadline(60_000), has_left)
    assert asked == 2


async def test_explain_searches_no_longer_for_all_its_steps_than_for_the_answer(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 9_000
    monkeypatch.setattr(second_stage, "MOST_UNITS", most)
    decided = 0
    best = OrderSearch._best

    def counted(search: OrderSearch, failed: set[int]) -> int | None:
        nonlocal decided
        decided += 1
        return best(search, failed)

    monkeypatch.setattr(OrderSearch, "_best", counted)
    ranker = await ranker_with(follower, *HARD, *HARD, *HARD)
    plain = await rank(ranker, query(200, top_k=50))
    assert 0 < decided <= most // 15
    decided = 0
    explained = await rank(ranker, query(200, top_k=50, explain=True))
    assert most // 30 < decided <= 2 * most // 15
    assert explained.ranked.item_ids == plain.ranked.item_ids


async def test_a_token_of_another_model_is_refused_before_the_store_is_asked(follower: Follower) -> None:
    ranker = await ranker_with(follower, {"type": "block", "item_ids": ["5"]})
    first = await rank(ranker, query(top_k=4))
    assert first.rules is not None
    second = await rank(ranker, query(top_k=4, page=first.rules.page))
    assert not set(first.ranked.item_ids) & set(second.ranked.item_ids)
    other = Ranker(follower, follower.reader, follower.loader.metrics, page_key=b"another")
    follower.reader.close()
    with pytest.raises(InvalidRequest, match="no token of an earlier page of this service"):
        await rank(other, query(top_k=4, page=first.rules.page))
