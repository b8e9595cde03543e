"""Tests the sets of received ids: each counts once, also after a step back of the clock."""

import redis

from service.store.redis.writing import id_sets
from service.store.redis.writing.id_sets import CLAIM_IDS

NOW = 1_795_787_016_596


def claim(store: redis.Redis, now: int, *ids: str) -> list[int]:
    fresh: list[int] = store.eval(CLAIM_IDS, 1, "fr:ids:events:{1}", now, *ids)
    return fresh


def test_an_id_counts_once_after_the_clock_of_a_full_set_stepped_back(store: redis.Redis) -> None:
    """An id with an earlier time than all others used to be removed at once, so that its event counted again."""
    most = id_sets._MOST_PER_SHARD
    for start in range(0, most, 1000):
        claim(store, NOW + start, *(f"a{i}" for i in range(start, start + 1000)))
    earlier = NOW - 60_000
    assert claim(store, earlier, "b1", "b2") == [1, 1]
    assert claim(store, earlier, "b1", "b2") == [0, 0]
    assert store.zcard("fr:ids:events:{1}") == most
    assert store.zscore("fr:ids:events:{1}", "b1") == NOW + most - 1000
    # An hour later they are new again; each call removes a part of the old ones.
    later = NOW + most + 3_600_000
    for call in range(most // id_sets._REMOVED_AT_ONCE):
        claim(store, later, f"c{call}")
    assert claim(store, later, "b1") == [1]
