"""Tests how a worker follows the documents if too many threads wait for a disk: it looks again when one is free."""

from pathlib import Path

from service.files import REGISTRY_PLACES
from service.metrics.metrics import Metrics
from service.rollout.following.followed import FollowedRegistry


async def test_a_look_that_no_thread_could_begin_is_repeated(registry: Path) -> None:
    followed = FollowedRegistry(registry, None, Metrics())
    for _ in range(REGISTRY_PLACES.most):
        REGISTRY_PLACES.take("the registry")
    try:
        assert (await followed.look(True)).rollout is None
    finally:
        for _ in range(REGISTRY_PLACES.most):
            REGISTRY_PLACES.give_back()
    news = await followed.look(True)
    assert news.rollout is not None and news.rollout.document is not None
