"""Removes all keys of one user from Redis, under every feature schema, and searches for what is left."""

import re
from collections.abc import Iterator
from typing import Any

from redis import Redis

from service.store.redis.clients import client
from service.store.redis.keys import SCHEMAS, behaviours_key, shown_items_key, user_counters_key, user_key

_SCAN_COUNT = 1000


def forget_user(redis_url: str, user_id: str) -> tuple[int, list[str]]:
    """Return how many keys of a user were removed, and the names of those that are there afterwards.

    The search reads the names of all keys. It finds rows of schemas that are no longer listed too. Keys of a user who
    is active meanwhile are written anew.
    """
    with client(redis_url, 60) as redis:
        listed: Any = redis.hkeys(SCHEMAS)
        names = [shown_items_key(user_id)]
        for fingerprint in sorted(name.decode(errors="replace") for name in listed):
            names += [key_of(fingerprint, user_id) for key_of in (user_key, behaviours_key, user_counters_key)]
        removed = _unlink(redis, names)
        # Rows of schemas that are not listed.
        unlisted = list(_search(redis, user_id))
        if not unlisted:
            return removed, []
        removed += _unlink(redis, unlisted)
        return removed, sorted(_search(redis, user_id))


def _unlink(redis: "Redis", names: list[str]) -> int:
    with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.unlink(name)
        return sum(pipeline.execute())


def _search(redis: "Redis", user_id: str) -> Iterator[str]:
    """Find the keys of a user. The pattern of SCAN also matches items and scenes whose id ends like a user's key."""
    escaped = re.sub(r"([*?\[\]\\^])", r"\\\1", user_id)
    key_of_user = re.compile(rf"fr:(shown|[0-9a-f]{{16}}:(u|s|cu)):\{{{re.escape(user_id)}\}}", re.DOTALL)
    seen = set()
    for key in redis.scan_iter(match=f"fr:*:{{{escaped}}}", count=_SCAN_COUNT):
        name = key.decode(errors="replace")
        if key_of_user.fullmatch(name) and name not in seen:
            seen.add(name)
            yield name
