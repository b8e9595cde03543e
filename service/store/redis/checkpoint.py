"""Owns how far a bulk load has come: a hash in the Redis that is loaded, so that it follows the rows it speaks of and is gone when they are."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from service.store.redis.keys import load_key

_KEPT_SECONDS = 30 * 86_400
_BEGUN = b"begun"

# A checkpoint that is gone is not begun anew in the middle: Redis was emptied, and what it held before is not there any more.
_NOTE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class Emptied(Exception):  # noqa: N818 - a state that is told, not a mistake
    """The Redis that is being loaded does not know of the load any more."""


class Checkpoint:
    """Of one load: these files, as they are now, under one feature schema. It is forgotten after 30 days."""

    def __init__(self, redis: "Redis", fingerprint: str, paths: Mapping[str, Path], restart: bool) -> None:
        """Take up what is noted, or begin. `paths` are the tables' files; one that has changed since makes another load of it."""
        self._redis = redis
        self._key = load_key(fingerprint, _identity(paths))
        if restart:
            redis.delete(self._key)
        noted: Any = redis.hgetall(self._key)
        self.done = {name: int(noted.get(name.encode(), 0)) for name in paths}
        redis.hset(self._key, _BEGUN, 1)
        redis.expire(self._key, _KEPT_SECONDS)
        self._note = redis.register_script(_NOTE)

    def note(self, table: str, rows: int) -> None:
        """The first `rows` rows of the table are in Redis. Raises Emptied."""
        if not self._note(keys=[self._key], args=[table, rows, _KEPT_SECONDS]):
            raise Emptied

    def finish(self) -> None:
        """All is loaded: the same load begins anew when it is asked for again."""
        self._redis.delete(self._key)


def _identity(paths: Mapping[str, Path]) -> str:
    """Sixteen hex digits of the files' names, sizes and times of change."""
    known = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for _, path in sorted(paths.items())]
    return hashlib.sha256(orjson.dumps(known)).hexdigest()[:16]
