"""Owns what is written to Redis while serving: merged feature rows and new behaviours, both safe against writers beside us."""

from collections.abc import Mapping, Sequence

from features.layouts import EVENT_KEY_BYTES, Entity, Layouts
from service.errors import StoreUnavailable
from service.store.redis.clients import REDIS_ERRORS, async_client
from service.store.redis.keys import behaviours_key, item_key, user_key

_ROUNDS = 20

# One event is one member: at its time, a member that starts with the same event key is replaced, in its place, and not doubled. Order comes
# from the score, so events may arrive in any order; what is older than the newest ARGV[1] goes. Of events of one millisecond a later arrival
# counts as newer, as a later row does in training: its score lies 1/2048 above the last one's, which a double keeps exact until the year 2109.
ADD_BEHAVIOURS = f"""
local new = 0
for i = 2, #ARGV, 2 do
  local time, member = ARGV[i], ARGV[i + 1]
  local event, score = string.sub(member, 1, {EVENT_KEY_BYTES}), nil
  local there = redis.call('ZRANGEBYSCORE', KEYS[1], time, string.format('(%.17g', time + 1), 'WITHSCORES')
  for k = 1, #there, 2 do
    if string.sub(there[k], 1, {EVENT_KEY_BYTES}) == event then
      score = there[k + 1]
      redis.call('ZREM', KEYS[1], there[k])
    end
  end
  if not score then
    new = new + 1
    score = time
    if #there > 0 then score = string.format('%.17g', math.min(there[#there] + 1 / 2048, time + 2047 / 2048)) end
  end
  redis.call('ZADD', KEYS[1], score, member)
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -(tonumber(ARGV[1]) + 1))
return new
"""

# Writes ARGV[2] only where the row is still ARGV[1] (empty for: no row), so that two partial updates never lose one another's values.
REPLACE_ROW = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class RedisWriter:
    """The writing side of the store for one worker."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        seconds = max(1.0, timeout_ms / 1000)
        self._redis = async_client(url, seconds)

    async def merge_rows(self, layouts: Layouts, entity: Entity, values: Mapping[str, Mapping[str, object]]) -> None:
        """Merge raw values onto the rows of `{id: {feature: value}}`. Raises StoreUnavailable; values must have been checked before."""
        key_of = user_key if entity == "user" else item_key
        keys = {i: key_of(layouts.fingerprint, i) for i in values}
        waiting = list(values)
        try:
            for _ in range(_ROUNDS):
                waiting = await self._merge_round(layouts, entity, values, keys, waiting)
                if not waiting:
                    return
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the rows were not written: {error}") from None
        raise StoreUnavailable(f"{len(waiting)} rows are being changed by others all the time; send them again")

    async def _merge_round(
        self,
        layouts: Layouts,
        entity: Entity,
        values: Mapping[str, Mapping[str, object]],
        keys: Mapping[str, str],
        ids: Sequence[str],
    ) -> list[str]:
        """One attempt for `ids`; those whose row changed meanwhile are to be tried again."""
        layout = layouts.layout(entity)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for i in ids:
                pipeline.get(keys[i])
            before: list[bytes | None] = await pipeline.execute()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for i, row in zip(ids, before, strict=True):
                merged = layout.pack(values[i], onto=layouts.row_or_unknown(entity, i, row))
                pipeline.execute_command("EVAL", REPLACE_ROW, 1, keys[i], row or b"", merged)
            written = await pipeline.execute()
        return [i for i, done in zip(ids, written, strict=True) if not done]

    async def add_behaviours(self, layouts: Layouts, by_user: Mapping[str, Sequence[tuple[int, bytes]]]) -> int:
        """Add behaviours `{user_id: [(time in ms, event key + packed row)]}`; how many were new. Raises StoreUnavailable."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for user_id, behaviours in by_user.items():
                    args: list[int | bytes] = [layouts.max_behaviours]
                    for time_ms, member in behaviours:
                        args += [time_ms, member]
                    pipeline.execute_command(
                        "EVAL", ADD_BEHAVIOURS, 1, behaviours_key(layouts.fingerprint, user_id), *args
                    )
                return sum(await pipeline.execute())
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the events were not written: {error}") from None

    async def close(self) -> None:
        await self._redis.aclose()
