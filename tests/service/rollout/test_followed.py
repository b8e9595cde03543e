"""Tests how a worker follows the documents if too many threads wait for a disk: it looks again when one is free."""

from pathlib import Path

from service import files
from service.metrics.metrics import Metrics
from service.rollout.followed import FollowedRegistry


async def test_a_look_that_no_thread_could_begin_is_repeated(registry: Path) -> None:
    followed = FollowedRegistry(registry, None, Metrics())
    taken = 0
    while files._places.acquire(blocking=False):
        taken += 1
    try:
        assert (await followed.look(True)).rollout is None
    finally:
        for _ in range(taken):
            files._places.release()
    news = await followed.look(True)
    assert news.rollout is not None and news.rollout.document is not None
