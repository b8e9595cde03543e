"""Tests rankings of a brown-out on a worker: which step is taken, and what the answer says."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.query import InlineBehaviour, InlineUser, Query, Ranking, RankingOptions
from service.ranking.ranker import Ranker
from service.rollout.follower import Follower
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings
from service.store.opening import open_store

NOW = 1_700_000_000_000
CONTEXT = {"tab": 1, "hour": 2}
BEHAVIOURS = [InlineBehaviour(str(i), "click", "home", NOW - 1000 * i) for i in range(1, 6)]


@pytest.fixture
async def ranker(registry: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> AsyncIterator[Ranker]:
    metrics = Metrics()
    with closing(open_store(redis_server.url, 20_000)) as reader:
        follower = Follower(Settings(registry=registry), None, reader, metrics)
        await follower.step()
        yield Ranker(follower, reader, metrics)
        follower.close()


def query(candidates: int = 100, user_id: str = "712", behaviours: int = 5) -> Query:
    ids = [str(i) for i in range(candidates)]
    inline = InlineUser(behaviours=BEHAVIOURS[:behaviours])
    return Query(user_id, ids, {}, CONTEXT, RankingOptions(timestamp=NOW), inline_user=inline)


def reasons(ranking: Ranking) -> list[str]:
    return [text for text in map(str, ranking.degraded) if text.startswith("brownout")]


async def test_step_one_ranks_as_a_user_with_the_newest_behaviours_alone(ranker: Ranker) -> None:
    reduced = await ranker.rank(query(), Deadline(60_000), step=1)
    short = await ranker.rank(query(behaviours=1), Deadline(60_000))
    full = await ranker.rank(query(), Deadline(60_000))
    assert reasons(reduced) == ["brownout:1"] and reasons(short) == reasons(full) == []
    assert reduced.computation.scores.tobytes() == short.computation.scores.tobytes()
    assert reduced.computation.scores.tobytes() != full.computation.scores.tobytes()
    assert len(reduced.computation.inputs["behaviour_times"]) == 1
    assert reduced.computation.coverage == (100, 100)
    page = (await ranker.metrics.page()).decode()
    assert 'funnelrank_brownout_rankings_total{step="1"} 1.0' in page
    assert 'funnelrank_degraded_total{reason="brownout"} 1.0' in page


@pytest.mark.parametrize("step", [1, 2])
async def test_a_step_that_saves_nothing_is_not_reported(ranker: Ranker, step: int) -> None:
    reduced = await ranker.rank(query(behaviours=1), Deadline(60_000), step=step)
    full = await ranker.rank(query(behaviours=1), Deadline(60_000))
    assert [str(d) for d in reduced.degraded] == [str(d) for d in full.degraded]
    assert reduced.computation.scores.tobytes() == full.computation.scores.tobytes()


async def test_without_a_small_bundle_step_two_is_step_one(ranker: Ranker) -> None:
    first, second = [await ranker.rank(query(), Deadline(60_000), step=step) for step in (1, 2)]
    assert reasons(first) == reasons(second) == ["brownout:1"]
    assert first.computation.scores.tobytes() == second.computation.scores.tobytes()


async def test_recent_requests_keep_all_their_behaviours(ranker: Ranker) -> None:
    """They are what new versions are compared on."""
    await ranker.rank(query(), Deadline(60_000), step=1)
    (assembly,) = ranker.follower.observers.recent.of(ranker.follower.current().bundle.layouts.inputs_fingerprint)
    assert len(assembly.inputs["behaviour_times"]) == 5
