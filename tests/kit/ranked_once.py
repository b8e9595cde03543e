"""Ranks one request by a ranker of this process, without a service."""

from pathlib import Path

from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.query import Query, Ranking
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.settings import Settings
from service.store.opening import open_store


async def rank(registry: Path, redis_url: str, query: Query, store_timeout_ms: int = 20_000) -> Ranking:
    """Rank by what is live in a registry."""
    metrics = Metrics()
    reader = open_store(redis_url, store_timeout_ms)
    follower = Follower(Settings(registry=registry), None, reader, metrics)
    await follower.step()
    try:
        return await Ranker(follower, reader, metrics).rank(query, Deadline(60_000))
    finally:
        follower.close()
        reader.close()
