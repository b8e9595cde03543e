"""Reads a ranking's rows from one Redis: the user's row, the behaviours and the item rows, in one round trip."""

from collections.abc import Callable, Sequence
from typing import Any

from features.layouts import Layouts
from service.redis_url import RedisAddress
from service.store.base import StoredRows
from service.store.item_cache import ItemCache
from service.store.item_rows import ItemRows, rows_from_store
from service.store.redis.keys import SCHEMAS, item_prefix
from service.store.redis.reading.commands import MGET_KEYS, item_reads, user_reads
from service.store.redis.reading.counters import CounterReads
from service.store.redis.reading.read_log import ReadLog
from service.store.redis.reading.replies import documents, packed_rows, rows_or_unknown, stored_rows
from service.store.redis.reading.schema_caches import SchemaCaches
from service.store.redis.reading.wire import Wire, packed

_SCHEMAS_SECONDS = 1.0  # nobody's deadline depends on the list of schemas


class SingleReader:
    """The reading side of one Redis for one worker."""

    def __init__(self, address: RedisAddress, timeout_ms: int, cache_bytes: int = 0, cache_ttl_ms: int = 1000) -> None:
        self.caches = SchemaCaches(cache_bytes, cache_ttl_ms)
        self.cache_counts = self.caches.counts
        self._wire = Wire(address, self.caches.on_push if cache_bytes else None)
        self._log = ReadLog(self._wire.drop)
        self.timeout = timeout_ms / 1000

    async def fetch(
        self,
        layouts: Layouts,
        user_id: str,
        item_ids: Sequence[str],
        timeout: float,
        before: int | None = None,
        shown: bool = False,
        scene: str | None = None,
    ) -> StoredRows:
        """Read the rows of one request; behaviours must be older than `before` (milliseconds; None: now).

        Takes one round trip, and a second one if Redis announced meanwhile that a cached row had changed. Raises
        StoreDown; waits no longer than `timeout` seconds or the store's own limit per round trip.
        """
        reads = user_reads(layouts, user_id, before, shown)
        reading = self._read(layouts, reads, user_id, scene, item_ids, min(timeout, self.timeout))
        return await self._log.watch(reading, layouts.fingerprint)

    async def _read(
        self,
        layouts: Layouts,
        of_user: Sequence[tuple[bytes, bytes]],
        user_id: str,
        scene: str | None,
        item_ids: Sequence[str],
        timeout: float,
    ) -> StoredRows:
        if not self._wire.open:
            await self._wire.connect(timeout)
        cache = self.caches.of(layouts)
        if cache.connection != self._wire.connection:
            self.caches.begin(cache, [self._wire], self._wire.connection)
        cached = cache.take(item_ids)

        # Ask for the user's rows, and for the items that are not cached.
        counters = CounterReads(layouts, cache.counters, user_id, scene, item_ids) if layouts.counters else None
        ahead = [*of_user, *counters.together()] if counters else of_user
        commands = b"".join([command for _, command in ahead])
        count = len(ahead)
        rows = cached.rows
        if cached.missing:
            missing_ids = [item_ids[place] for place in cached.missing]
            reads, reads_count = item_reads(item_prefix(layouts.fingerprint), missing_ids)
            decode = self._rows_decoder(layouts, cache, missing_ids, count)
            replies, read_rows = await self._wire.ask(commands + reads, count + reads_count, timeout, decode)
            rows.put(cached.missing, read_rows)
        else:
            replies = await self._wire.ask(commands, count, timeout)

        # Read rows again that were taken from the cache and have been removed from it since.
        if cache.changes != cached.changes:
            just_read = set(cached.missing)
            changed = [place for place in cache.take(item_ids).missing if place not in just_read]
            if changed:
                rows.put(changed, await self._changed_rows(layouts, cache, [item_ids[i] for i in changed], timeout))
        stored = stored_rows(layouts, replies[: len(of_user)], rows)
        if counters is not None:
            stored.counters = counters.stored(replies[len(of_user) : count], stored.corrupt)
            stored.unread += stored.counters.unread
        return stored

    async def _changed_rows(self, layouts: Layouts, cache: ItemCache, item_ids: list[str], timeout: float) -> ItemRows:
        reads, count = item_reads(item_prefix(layouts.fingerprint), item_ids)
        _, rows = await self._wire.ask(reads, count, timeout, self._rows_decoder(layouts, cache, item_ids, 0))
        return rows  # type: ignore[no-any-return]

    def _rows_decoder(
        self, layouts: Layouts, cache: ItemCache, item_ids: list[str], ahead: int
    ) -> Callable[[list[Any]], tuple[list[Any], ItemRows]]:
        """Return a function that converts replies to item rows; the first `ahead` replies are not item rows.

        The cache gets the rows before Redis can announce a later change, even if the request has given up.
        """
        connection = self._wire.connection

        def decode(replies: list[Any]) -> tuple[list[Any], ItemRows]:
            rows = rows_from_store(layouts, item_ids, _joined(replies[ahead:], len(item_ids)))
            if cache.connection == connection == self._wire.connection:
                cache.keep(item_ids, rows)
            return replies, rows

        return decode

    async def item_rows(self, layouts: Layouts, item_ids: Sequence[str]) -> list[bytes]:
        """Read the packed rows of items; defaults for items without a row. Raises StoreDown."""
        if not item_ids:
            return []
        reads, count = item_reads(item_prefix(layouts.fingerprint), item_ids)

        def decode(replies: list[Any]) -> list[bytes]:
            return rows_or_unknown(layouts, item_ids, _joined(replies, len(item_ids)))

        return await self._wire.ask(reads, count, self.timeout, decode)  # type: ignore[no-any-return]

    async def schemas(self) -> dict[str, str]:
        """Return the schemas that this Redis was loaded with: fingerprint -> JSON. Raises StoreDown."""
        timeout = max(self.timeout, _SCHEMAS_SECONDS)

        def decode(replies: list[Any]) -> dict[str, str]:
            return documents(replies[0])

        return await self._wire.ask(packed("HGETALL", SCHEMAS), 1, timeout, decode)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._wire.close()


def _joined(replies: list[Any], n: int) -> list[bytes | None]:
    """Concatenate the replies to the MGETs of `item_reads` into the rows of `n` items. Raises StoreDown."""
    if len(replies) == 1:
        return packed_rows(replies[0], n)
    rows: list[bytes | None] = []
    for place, reply in enumerate(replies):
        rows += packed_rows(reply, min(MGET_KEYS, n - place * MGET_KEYS))
    return rows
