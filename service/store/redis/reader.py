"""Owns what a ranking reads from Redis: the user's row, the behaviour sequence and the item rows, in one round trip."""

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import orjson

from features.layouts import EVENT_KEY_BYTES, Layouts
from service.store.item_cache import CORRUPT, COUNTS, ItemCache, ItemRows, rows_from_store
from service.store.keys import SCHEMAS, behaviours_key, item_prefix, user_key
from service.store.redis.schemas import is_loaded
from service.store.redis.wire import StoreDown, Wire, packed

log = logging.getLogger("funnelrank.store")


@dataclass(slots=True)
class Stored:
    """What Redis holds for one request. A row that is absent is None; one that does not fit the schema counts as absent.

    `behaviours` are the sorted set's members, newest first; `items` has one row per candidate, an unknown item's where there is none. `unread`
    counts the rows that are missing because their node of a cluster is away.
    """

    user: bytes | None
    behaviours: list[bytes]
    items: ItemRows
    corrupt: dict[str, int]
    unread: int = 0


class Reader:
    """The reading side of the store for one worker.

    Item rows come from a cache per feature schema. Redis tells on the reading connection itself which rows changed, in order with its replies:
    a ranking that asks after a write was answered sees what was written.
    """

    def __init__(self, url: str, timeout_ms: int, cache_bytes: int = 0, cache_ttl_ms: int = 1000) -> None:
        self._reach(url, self._told if cache_bytes else None)
        self.timeout = timeout_ms / 1000
        self._cache_bytes = cache_bytes
        self._cache_ttl = cache_ttl_ms / 1000
        self._caches: dict[int, ItemCache] = {}
        self._down = False
        self._untold = False
        self._told_corrupt: set[str] = set()

    def _reach(self, url: str, told: Callable[[list[Any]], None] | None) -> None:
        self._wire = Wire(url, told)

    @property
    def caches(self) -> list[ItemCache]:
        """One per feature schema in use."""
        return list({id(cache): cache for cache in self._caches.values()}.values())

    def cache_counts(self) -> dict[str, int]:
        """What the caches counted since this was last asked, and their size in bytes now."""
        caches = self.caches
        found = {name: sum(getattr(cache, name) for cache in caches) for name in COUNTS}
        for cache in caches:
            cache.reset_counts()
        return found | {"bytes": sum(cache.bytes_used for cache in caches)}

    async def fetch(
        self, layouts: Layouts, user_id: str, item_ids: Sequence[str], timeout: float, before: int | None = None
    ) -> Stored:
        """All rows of one request; of the behaviours those older than `before` (milliseconds), all where it is None.

        One round trip; a second one where Redis told meanwhile that a row in the cache had changed. Raises StoreDown; waits no longer than
        `timeout` seconds or the store's own limit per round trip.
        """
        timeout = min(timeout, self.timeout)
        try:
            stored = await self._fetch(layouts, user_id, item_ids, timeout, before)
        except StoreDown as error:
            self._note_down(error)
            raise
        self._note_up()
        if stored.corrupt:
            self._note_corrupt(layouts.fingerprint, stored.corrupt)
        return stored

    async def _fetch(
        self, layouts: Layouts, user_id: str, item_ids: Sequence[str], timeout: float, before: int | None
    ) -> Stored:
        await self._wire.connect(timeout)
        cache = self._cache(layouts)
        fingerprint = layouts.fingerprint
        behaviour = layouts.behaviour
        if cache.connection != self._wire.connection:
            self._begin(cache, [self._wire], self._wire.connection)
        taken = cache.take(item_ids)
        commands = packed("GET", user_key(fingerprint, user_id))
        if behaviour is not None:
            commands += newest(behaviours_key(fingerprint, user_id), layouts.max_behaviours, before)
        count = 1 if behaviour is None else 2
        if taken.missing:
            replies, rows = await self._ask_items(
                layouts, cache, [item_ids[i] for i in taken.missing], commands, count, timeout
            )
            taken.rows.put(taken.missing, rows)
        else:
            replies = refused(await self._wire.ask(commands, count, timeout))
        if cache.changes != taken.changes:
            await self._again(layouts, cache, item_ids, taken.rows, set(taken.missing), timeout)
        return checked(layouts, replies[0], replies[1] if behaviour is not None else [], taken.rows)

    async def _ask_items(
        self, layouts: Layouts, cache: ItemCache, item_ids: list[str], commands: bytes, count: int, timeout: float
    ) -> tuple[list[Any], ItemRows]:
        """The replies to `commands`, and rows that are read with them; the cache gets the rows before Redis can tell of a later change."""
        connection = self._wire.connection
        came = []

        def keep(replies: list[Any]) -> None:
            if isinstance(replies[-1], list):
                came.append(rows_from_store(layouts, item_ids, replies[-1]))
                if cache.connection == connection == self._wire.connection:
                    cache.keep(item_ids, came[0])

        mget = packed("MGET", *map("".join, zip(repeat(cache.prefix), item_ids)))
        replies = refused(await self._wire.ask(commands + mget, count + 1, timeout, keep))
        return replies, came[0]

    async def _again(
        self,
        layouts: Layouts,
        cache: ItemCache,
        item_ids: Sequence[str],
        rows: ItemRows,
        fresh: set[int],
        timeout: float,
    ) -> None:
        """Rows that were taken from the cache and are not in it any more are read anew; those at the places `fresh` just came."""
        gone = [place for place in cache.take(item_ids).missing if place not in fresh]
        if gone:
            rows.put(gone, (await self._ask_items(layouts, cache, [item_ids[i] for i in gone], b"", 0, timeout))[1])

    def _cache(self, layouts: Layouts) -> ItemCache:
        """The cache of a schema. It lives as long as the layouts of a bundle that uses it, so an old schema's goes with its last bundle."""
        found = self._caches.get(id(layouts))
        if found is not None:
            return found
        prefix = item_prefix(layouts.fingerprint)
        shared = [c for c in self._caches.values() if c.prefix == prefix]
        cache = self._caches[id(layouts)] = (
            shared[0] if shared else ItemCache(layouts, self._cache_bytes, self._cache_ttl)
        )
        weakref.finalize(layouts, self._caches.pop, id(layouts), None)
        return cache

    def _begin(self, cache: ItemCache, wires: Sequence[Wire], connection: int) -> None:
        """Ask Redis, ahead of the first read on these connections, to tell of every change under the cache's prefix."""
        told = bool(cache.capacity) and all(wire.pushes for wire in wires)
        cache.start_over(connection, told)
        if not told:
            self._note_untold(cache, "it does not speak RESP3")
            return
        for wire in wires:
            if cache.prefix not in wire.prefixes:  # asking twice would be refused
                wire.prefixes.add(cache.prefix)
                wire.tell(
                    packed("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", cache.prefix),
                    partial(self._tracking, cache, wire, connection),
                )

    def _tracking(self, cache: ItemCache, wire: Wire, connection: int, replies: list[Any]) -> None:
        """Where Redis will not tell of changes after all, rows are kept for a short time alone."""
        if isinstance(replies[0], Exception):
            self._note_untold(cache, str(replies[0]))
            wire.prefixes.discard(cache.prefix)
            cache.start_over(connection, told=False)

    def _told(self, push: list[Any]) -> None:
        """Redis tells that rows have changed; no keys at all stand for every one."""
        if push[0] != b"invalidate":
            return
        caches = {cache.prefix.encode(): cache for cache in self.caches}
        if push[1] is None:
            for cache in caches.values():
                cache.clear()
            return
        for key in push[1]:
            head, colon, item_id = key.partition(b":i:")
            found = caches.get(head + colon)  # a schema that is no longer in use is told of until the connection ends
            if found is not None:
                found.forget(item_id.decode(errors="replace"))

    # The log says once that something began; how often it happens, the metrics say.

    def _note_down(self, error: StoreDown) -> None:
        if not self._down:
            self._down = True
            log.warning("rankings are made without the store: %s", error)

    def _note_up(self) -> None:
        if self._down:
            self._down = False
            log.info("the store answers again")

    def _note_corrupt(self, fingerprint: str, corrupt: dict[str, int]) -> None:
        if told := sorted(corrupt.keys() - self._told_corrupt):
            self._told_corrupt.update(told)
            log.warning(
                "rows in Redis that do not fit schema %s are taken as missing: %s", fingerprint, ", ".join(told)
            )

    def _note_untold(self, cache: ItemCache, reason: str) -> None:
        if cache.capacity and not self._untold:
            self._untold = True
            log.warning(
                "Redis does not tell of changes (%s); item rows are kept for %g s at most", reason, cache.ttl_seconds
            )

    async def item_rows(self, layouts: Layouts, item_ids: Sequence[str]) -> list[bytes]:
        """The packed rows of items, defaults for those without one. Raises StoreDown."""
        if not item_ids:
            return []
        prefix = item_prefix(layouts.fingerprint)
        (rows,) = refused(await self._wire.ask(packed("MGET", *(prefix + i for i in item_ids)), 1, self.timeout))
        return [layouts.row_or_unknown("item", i, row) for i, row in zip(item_ids, rows, strict=True)]

    async def schemas(self) -> dict[str, str]:
        """What this Redis has been loaded with: fingerprint -> JSON. Raises StoreDown."""
        (found,) = refused(await self._wire.ask(packed("HGETALL", SCHEMAS), 1, max(self.timeout, 1.0)))
        return documents(found)

    def close(self) -> None:
        self._wire.close()


def documents(hash_reply: Any) -> dict[str, str]:
    """The reply to HGETALL as text, of either protocol."""
    if isinstance(hash_reply, dict):  # RESP3
        return {k.decode(): v.decode() for k, v in hash_reply.items()}
    return {k.decode(): v.decode() for k, v in zip(hash_reply[::2], hash_reply[1::2], strict=True)}


def newest(key: str, count: int, before: int | None) -> bytes:
    """The command for a user's newest behaviours, of those older than `before` if it is given."""
    if before is None:
        return packed("ZREVRANGE", key, "0", str(count - 1))
    return packed("ZREVRANGEBYSCORE", key, f"({before}", "-inf", "LIMIT", "0", str(count))


def refused(replies: list[Any]) -> list[Any]:
    """The replies. Raises StoreDown where one of them is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise down(reply)
    return replies


def down(reply: Exception) -> StoreDown:
    """What an error in the place of a reply means to whoever wanted to read."""
    return reply if isinstance(reply, StoreDown) else StoreDown(f"Redis refuses to read: {reply}")


def checked(layouts: Layouts, user: bytes | None, behaviours: list[bytes], items: ItemRows) -> Stored:
    """Rows of another length than the schema's are taken as absent, and counted."""
    corrupt: dict[str, int] = {}
    if user is not None and len(user) != layouts.user.dtype.itemsize:
        user = None
        corrupt["user"] = 1
    if layouts.behaviour is not None and behaviours:
        size = layouts.behaviour.dtype.itemsize + EVENT_KEY_BYTES
        if set(map(len, behaviours)) != {size}:
            fitting = [b for b in behaviours if len(b) == size]
            corrupt["behaviour"] = len(behaviours) - len(fitting)
            behaviours = fitting
    if np.count_nonzero(items.states) and (wrong := int(np.count_nonzero(items.states == CORRUPT))):
        corrupt["item"] = wrong
    return Stored(user, behaviours, items, corrupt)


@dataclass(frozen=True)
class SchemaCheck:
    """Whether Redis holds rows of the wanted schema; `problem` is None where ranking makes sense."""

    reachable: bool
    loaded: frozenset[str]
    problem: str | None


async def check_schema(reader: Reader, layouts: Layouts) -> SchemaCheck:
    """A Redis that was loaded with other schemas and not with this one must not be ranked from: all would be defaults."""
    try:
        schemas = await reader.schemas()
    except StoreDown:
        return SchemaCheck(reachable=False, loaded=frozenset(), problem=None)
    except UnicodeDecodeError as error:
        return SchemaCheck(reachable=True, loaded=frozenset(), problem=f"the hash {SCHEMAS} cannot be read: {error}")
    loaded = frozenset(f for f, document in schemas.items() if is_loaded(document))
    if loaded and layouts.fingerprint not in loaded:
        known = ", ".join(f"{f} ({_described(schemas[f])})" for f in sorted(loaded))
        wanted = f"{layouts.fingerprint} ({len(layouts.schema.user)} user and {len(layouts.schema.item)} item features)"
        detail = f"Redis was loaded with {known}; the model wants {wanted}; run: python -m service load DIR --registry REGISTRY"
        return SchemaCheck(reachable=True, loaded=loaded, problem=detail)
    return SchemaCheck(reachable=True, loaded=loaded, problem=None)


def _described(document: str) -> str:
    try:
        schema = orjson.loads(document)["schema"]
        return f"{len(schema['user'])} user and {len(schema['item'])} item features"
    except (ValueError, KeyError, TypeError):
        return "unreadable description"
