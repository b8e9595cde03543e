"""Stores the progress of a bulk load: a hash in the loaded Redis, so that it is lost when the rows are lost."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from redis import Redis

from service.store.redis.keys import load_key

# Of each file of a table its name, size and time of change.
States = Sequence[tuple[str, int, int | str]]

_LIFETIME_SECONDS = 30 * 86_400
_BEGUN = b"begun"

# A lost checkpoint is not created again in the middle of a load: it means that Redis was emptied, and that earlier rows
# are lost too.
_NOTE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class Emptied(Exception):  # noqa: N818 - a state, not a mistake
    """The Redis that is being loaded has lost the checkpoint, because it was emptied."""


class Checkpoint:
    """The progress of one load: files (by name, size and change time) and feature schema. It expires after 30 days."""

    def __init__(self, redis: "Redis", fingerprint: str, states: Mapping[str, States], restart: bool) -> None:
        """Continue a recorded load, or begin one. If a file of `states` has changed, it counts as another load."""
        self._redis = redis
        self._key = load_key(fingerprint, _identity(states))
        if restart:
            redis.delete(self._key)
        counts: Any = redis.hgetall(self._key)
        self.done = {name: int(counts.get(name.encode(), 0)) for name in states}
        redis.hset(self._key, _BEGUN, 1)
        redis.expire(self._key, _LIFETIME_SECONDS)
        self._note = redis.register_script(_NOTE)

    def note(self, table: str, rows: int) -> None:
        """Record that the first `rows` rows of the table are in Redis. Raises Emptied."""
        if not self._note(keys=[self._key], args=[table, rows, _LIFETIME_SECONDS]):
            raise Emptied

    def finish(self) -> None:
        """Remove the checkpoint: everything is loaded, and the same command would begin a new load."""
        self._redis.delete(self._key)


def _identity(states: Mapping[str, States]) -> str:
    """Return sixteen hex digits that depend on the files' names, sizes and times of change."""
    identities = [state for _, files in sorted(states.items()) for state in files]
    return hashlib.sha256(orjson.dumps(identities)).hexdigest()[:16]
