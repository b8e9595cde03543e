"""Writes to Redis while serving: merged feature rows and new behaviours, safe against other writers."""

from collections.abc import Mapping, Sequence
from time import time_ns
from typing import Any, cast

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from features.layouts import Entity, Layouts
from service.addresses.redis_url import address_of
from service.errors import StoreUnavailable
from service.store.base import Lifetimes
from service.store.counters import CounterWrites
from service.store.redis.clients import REDIS_ERRORS, async_client
from service.store.redis.keys import CALLER_USES, behaviours_key, item_key, shown_items_key, user_key
from service.store.redis.writing.counter_script import ADD_COUNTS, count_calls
from service.store.redis.writing.id_sets import CLAIM_IDS, by_shard, id_set_key
from service.store.redis.writing.scripts import (
    ADD_BEHAVIOURS,
    ADD_SHOWN,
    REPLACE_ROW,
    add_behaviours_arguments,
    behaviours_to_send,
)
from service.store.shown import ENTRY_BYTES, KEPT_ENTRIES

_ROUNDS = 20
_SLOWEST_TIMEOUT_SECONDS = 1.0  # a write may take longer than a ranking's read

ScriptCall = tuple[Sequence[str], Sequence[int | bytes]]  # KEYS and ARGV


class RedisWriter:
    """The writing side of the store for one worker."""

    def __init__(self, url: str, timeout_ms: int, lifetimes: Lifetimes) -> None:
        self._lifetimes = lifetimes
        self._redis = async_client(url, max(_SLOWEST_TIMEOUT_SECONDS, timeout_ms / 1000))
        # A cluster's client does not accept EVALSHA in a pipeline. With one Redis, EVALSHA avoids sending the script
        # per key.
        self._sends_text = address_of(url).is_cluster
        self._hashes: dict[str, str] = {}  # script -> its SHA-1, once Redis has it

    async def merge_rows(self, layouts: Layouts, entity: Entity, values: Mapping[str, Mapping[str, object]]) -> None:
        """Merge checked raw values onto the rows of `{id: {feature: value}}`. Raises StoreUnavailable."""
        key_of = user_key if entity == "user" else item_key
        keys = {i: key_of(layouts.fingerprint, i) for i in values}
        waiting = list(values)
        try:
            for _ in range(_ROUNDS):
                waiting = await self._merge_round(layouts, entity, values, keys, waiting)
                if not waiting:
                    return
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the rows were not written: {_reason(error)}") from None
        raise StoreUnavailable(f"{len(waiting)} rows are being changed by others all the time; send them again")

    async def _merge_round(
        self,
        layouts: Layouts,
        entity: Entity,
        values: Mapping[str, Mapping[str, object]],
        keys: Mapping[str, str],
        ids: Sequence[str],
    ) -> list[str]:
        """Make one attempt for `ids`; return those whose row changed meanwhile, to be tried again."""
        layout = layouts.layout(entity)
        lifetime_ms = self._lifetimes.user_ms if entity == "user" else 0
        async with self._redis.pipeline(transaction=False) as pipeline:
            for i in ids:
                pipeline.get(keys[i])
            replies = await pipeline.execute(raise_on_error=False)
        calls: list[ScriptCall] = []
        for i, reply in zip(ids, replies, strict=True):
            row = _row(reply)
            merged = layout.pack(values[i], onto=layouts.row_or_unknown(entity, i, row))
            calls.append(((keys[i],), (row or b"", merged, lifetime_ms)))
        written = await self._run(REPLACE_ROW, calls)
        return [i for i, done in zip(ids, written, strict=True) if not done]

    async def add_behaviours(self, layouts: Layouts, by_user: Mapping[str, Sequence[tuple[int, bytes]]]) -> int:
        """Add behaviours `{user_id: [(time in ms, event key + packed row)]}`. Returns how many of them are new and
        stored.

        Raises StoreUnavailable.
        """
        keep = layouts.kept_behaviours
        now_ms = time_ns() // 1_000_000
        calls: list[ScriptCall] = []
        for user_id, behaviours in by_user.items():
            sent = behaviours_to_send(behaviours, keep, now_ms)
            keys = (behaviours_key(layouts.fingerprint, user_id), user_key(layouts.fingerprint, user_id))
            calls.append((keys, add_behaviours_arguments(sent, keep, now_ms, self._lifetimes)))
        try:
            return sum(await self._run(ADD_BEHAVIOURS, calls))
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the events were not written: {_reason(error)}") from None

    async def claim_ids(self, kind: str, ids: Sequence[bytes]) -> list[bool]:
        """Add ids of 16 bytes to the id sets of a kind; return which of them are new. Raises StoreUnavailable."""
        now = time_ns() // 1_000_000
        shards = by_shard(ids)
        calls: list[ScriptCall] = [
            ((id_set_key(kind, shard),), (now, *(ids[place] for place in places))) for shard, places in shards.items()
        ]
        try:
            replies = await self._run(CLAIM_IDS, calls)
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the ids were not recorded: {_reason(error)}") from None
        new = [False] * len(ids)
        for places, reply in zip(shards.values(), replies, strict=True):
            for place, fresh in zip(places, reply, strict=True):
                new[place] = bool(fresh)
        return new

    async def add_shown(self, by_user: Mapping[str, bytes], keep_ms: int) -> int:
        """Add packed entries of shown items `{user_id: entries}`. Returns how many are new. Raises StoreUnavailable."""
        keep = KEPT_ENTRIES * ENTRY_BYTES
        calls: list[ScriptCall] = [
            ((shown_items_key(user_id),), (keep, keep_ms, entries)) for user_id, entries in by_user.items()
        ]
        try:
            return sum(await self._run(ADD_SHOWN, calls))
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the shown items were not written: {_reason(error)}") from None

    async def add_counts(self, layouts: Layouts, writes: CounterWrites) -> None:
        """Add increments to the cells of a schema's counters. Raises StoreUnavailable."""
        try:
            await self._run(ADD_COUNTS, [((key,), arguments) for key, arguments in count_calls(layouts, writes)])
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the counters were not written: {_reason(error)}") from None

    async def record_uses(self, times_ms: Mapping[str, int]) -> None:
        """Record the time of the last use of keys `{key id: time in ms}`. Raises StoreUnavailable."""
        try:
            await cast(Any, self._redis).hset(CALLER_USES, mapping=dict(times_ms))
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the uses were not written: {_reason(error)}") from None

    async def last_uses(self) -> dict[str, int]:
        """Return the time of the last use (ms) by key id. Raises StoreUnavailable."""
        try:
            stored: dict[bytes, bytes] = await cast(Any, self._redis).hgetall(CALLER_USES)
        except REDIS_ERRORS as error:
            raise StoreUnavailable(f"the last uses cannot be read: {_reason(error)}") from None
        return {key_id.decode(): int(time_ms) for key_id, time_ms in stored.items() if time_ms.isdigit()}

    async def _run(self, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run a script for each call, in one pipeline, and return the results. Raises redis' errors."""
        if self._sends_text:
            return await self._pipelined("EVAL", script, calls)
        if script in self._hashes:
            try:
                return await self._pipelined("EVALSHA", self._hashes[script], calls)
            except NoScriptError:  # Redis was restarted
                del self._hashes[script]
        try:
            self._hashes[script] = str(await self._redis.script_load(script))
            return await self._pipelined("EVALSHA", self._hashes[script], calls)
        except NoPermissionError:  # the user may EVAL and nothing else
            self._sends_text = True
            return await self._pipelined("EVAL", script, calls)

    async def _pipelined(self, command: str, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.execute_command(command, script, len(keys), *keys, *arguments)
            replies = list(await pipeline.execute(raise_on_error=False))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def close(self) -> None:
        await self._redis.aclose()


def _row(reply: Any) -> bytes | None:
    """Return the reply to GET. A key of another type counts as no row, and is replaced. Raises redis' other errors."""
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply  # type: ignore[no-any-return]


def _reason(error: Exception) -> str:
    """Return an error's message without the position in our script, which Redis adds."""
    text = str(error).partition(" script: ")[0]
    return text.rpartition(": ")[2].lstrip("-") if "@user_script" in text else text
