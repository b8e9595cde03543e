"""Id sets record which ids of impressions and events any worker has received. They are bounded in number and time."""

from collections.abc import Sequence
from typing import Final

# ids -> the set of one shard; the shards of a kind are in different slots of a cluster.
_SHARDS = 64
_MOST_PER_SHARD = 10_000  # ids; about 1 MiB per shard, 64 MiB per kind at most
_TTL_MS = 3_600_000  # a caller that sends again after an hour is recognised by the joiner
_REMOVED_AT_ONCE = 2_000

# ARGV: the present time (ms), then ids. The result says for each id whether it is new. A set has the newest ids with
# the times of their arrival. After a step back of the clock, ids get the newest time that is there: with an earlier one
# a full set would remove them at once, and their events could count twice.
CLAIM_IDS: Final = f"""
local key, now = KEYS[1], tonumber(ARGV[1])
local old = redis.pcall('ZRANGEBYSCORE', key, '-inf', now - {_TTL_MS}, 'LIMIT', 0, {_REMOVED_AT_ONCE})
if old.err then
  redis.call('UNLINK', key)
  old = {{}}
end
if #old > 0 then redis.call('ZREMRANGEBYRANK', key, 0, #old - 1) end
local newest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
if newest then now = math.max(now, tonumber(newest)) end
local fresh = {{}}
for i = 2, #ARGV do fresh[i - 1] = redis.call('ZADD', key, 'NX', string.format('%.0f', now), ARGV[i]) end
local excess = redis.call('ZCARD', key) - {_MOST_PER_SHARD}
if excess > 0 then redis.call('ZREMRANGEBYRANK', key, 0, excess - 1) end
redis.call('PEXPIRE', key, {_TTL_MS})
return fresh
"""


def id_set_key(kind: str, shard: int) -> str:
    """Sorted set: score = the time in ms at which an id arrived, member = the id, 16 bytes."""
    return f"fr:ids:{kind}:{{{shard}}}"


def by_shard(ids: Sequence[bytes]) -> dict[int, list[int]]:
    """The positions of ids by their shard, which is the first byte modulo the number of shards."""
    places: dict[int, list[int]] = {}
    for place, each in enumerate(ids):
        places.setdefault(each[0] % _SHARDS, []).append(place)
    return places
