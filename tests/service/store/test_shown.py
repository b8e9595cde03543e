"""Tests the items that a user was shown: bounded, each counted once, read with the other rows, on one Redis and on a
cluster.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from redis_cluster import redis_cluster

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.opening import open_store, open_writer
from service.store.redis.keys import shown_items_key
from service.store.shown import (
    ENTRY_BYTES,
    KEPT_ENTRIES,
    Exposures,
    ShownItem,
    exposures_of,
    packed_by_user,
    shown_key,
)

NOW = 1_700_000_000_000
DAY_MS = 86_400_000


@pytest.fixture(scope="module", params=["one", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "one":
        with EmbeddedRedis() as server:
            yield server.url
    else:
        with redis_cluster() as cluster:
            yield cluster.url


async def add(url: str, *items: ShownItem) -> int:
    writer = open_writer(url, 5000)
    try:
        return await writer.add_shown(packed_by_user(items), DAY_MS)
    finally:
        await writer.close()


async def read(url: str, layouts: Layouts, user: str, shown: bool = True) -> bytes | None:
    reader = open_store(url, 5000)
    try:
        stored = await reader.fetch(layouts, user, ["1", "2"], 5, shown=shown)
        assert stored.unread == 0
        return stored.shown
    finally:
        reader.close()


async def test_every_item_counts_once_for_one_time_and_users_do_not_mix(url: str, layouts: Layouts) -> None:
    items = [ShownItem("ada", "7", NOW, False), ShownItem("ada", "7", NOW, True), ShownItem("bob", "8", NOW, True)]
    assert await add(url, *items, items[0]) == 3
    assert await add(url, *items, ShownItem("ada", "7", NOW + 1, False)) == 1
    exposures = exposures_of(await read(url, layouts, "ada"))
    assert exposures.keys.tolist() == [shown_key("7")] * 3
    assert exposures.times_ms.tolist() == [NOW, NOW, NOW + 1]
    assert exposures.acted.tolist() == [False, True, False]
    assert exposures.within(NOW + 1, NOW + 9).tolist() == [shown_key("7")]
    assert len(exposures.within(NOW, NOW, shown_only=True)) == 1
    assert exposures_of(await read(url, layouts, "bob")).keys.tolist() == [shown_key("8")]
    assert await read(url, layouts, "nobody") is None
    assert await read(url, layouts, "ada", shown=False) is None


async def test_the_newest_arrivals_are_kept(url: str, layouts: Layouts) -> None:
    for first in range(0, 1600, 400):
        await add(url, *(ShownItem("many", str(i), NOW + i, False) for i in range(first, first + 400)))
    packed = await read(url, layouts, "many")
    assert packed is not None
    assert len(packed) == KEPT_ENTRIES * ENTRY_BYTES
    assert exposures_of(packed).keys.tolist() == [shown_key(str(i)) for i in range(600, 1600)]


async def test_an_entry_whose_bytes_lie_across_two_others_is_new(redis_server: EmbeddedRedis, layouts: Layouts) -> None:
    """The script searches bytes, and must ignore a match that begins inside another entry."""
    entry = next(iter(packed_by_user([ShownItem("u", "7", NOW, False)]).values()))
    across = b"." * 8 + entry + b"." * 8
    with redis.Redis.from_url(redis_server.url) as client:
        client.set(shown_items_key("across"), across)
        assert await add(redis_server.url, ShownItem("across", "7", NOW, False)) == 1
        value: Any = client.get(shown_items_key("across"))
        assert value == across + entry
        client.delete(shown_items_key("across"))


def test_no_entries_are_no_exposures() -> None:
    for empty in (Exposures(), exposures_of(None), exposures_of(b"")):
        assert empty.within(0, NOW).tolist() == []
        assert np.isin(np.array([1, 2]), empty.within(0, NOW)).tolist() == [False, False]
