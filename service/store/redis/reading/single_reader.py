"""Reads a ranking's rows from one Redis: the user's row, the behaviours and the item rows, in one round trip."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from features.layouts import Layouts
from service.addresses.redis_url import RedisAddress
from service.store.base import StoreDown, StoredRows
from service.store.item_cache import ItemCache
from service.store.item_rows import ItemRows, rows_from_store
from service.store.redis.keys import SCHEMAS, item_prefix
from service.store.redis.reading.commands import MGET_KEYS, item_reads, user_reads
from service.store.redis.reading.counters import CounterReads
from service.store.redis.reading.read_log import ReadLog
from service.store.redis.reading.replicas import ReplicaCounts, ReplicaSet
from service.store.redis.reading.replies import documents, packed_rows, rows_or_unknown, stored_rows
from service.store.redis.reading.schema_caches import SchemaCaches
from service.store.redis.reading.wire import Wire, packed

_SCHEMAS_SECONDS = 1.0  # nobody's deadline depends on the list of schemas
# Reads the rows of one request over a connection, within so many seconds.
_Read = Callable[[Wire, float], Awaitable[StoredRows]]


class SingleReader:
    """The reading side of one Redis for one worker. With `replica_lag_ms`, rankings read from its replicas."""

    def __init__(
        self,
        address: RedisAddress,
        timeout_ms: int,
        cache_bytes: int = 0,
        cache_ttl_ms: int = 1000,
        replica_lag_ms: int = 0,
    ) -> None:
        self.caches = SchemaCaches(cache_bytes, cache_ttl_ms)
        on_push = self.caches.on_push if cache_bytes else None
        self._wire = Wire(address, on_push)
        self._replicas: ReplicaSet[Wire] | None = None
        if replica_lag_ms:
            open_replica = partial(Wire, address, on_push, of_replica=True)
            self._replicas = ReplicaSet(self._wire, open_replica, replica_lag_ms / 1000)
        self._counts = ReplicaCounts()
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
        of_user = user_reads(layouts, user_id, before, shown)
        read = partial(self._read, layouts, of_user, user_id, scene, item_ids)
        timeout = min(timeout, self.timeout)
        if self._replicas is None:
            reading = read(self._wire, timeout)
        else:
            reading = self._from_replica(self._replicas, read, timeout)
        return await self._log.watch(reading, layouts.fingerprint)

    async def _from_replica(self, replicas: ReplicaSet[Wire], read: _Read, timeout: float) -> StoredRows:
        """Read from a replica that is fresh enough; if it fails, from the primary in the second half of the time."""
        replicas.settle()
        end = monotonic() + timeout
        if replicas.reads_replica:
            wire = replicas.reader
            try:
                rows = await read(wire, timeout / 2)
                self._counts.reads += 1
                return rows
            except StoreDown as error:
                self._counts.fallbacks += 1
                replicas.set_aside(wire, error)
        return await read(self._wire, end - monotonic())

    async def _read(
        self,
        layouts: Layouts,
        of_user: Sequence[tuple[bytes, bytes]],
        user_id: str,
        scene: str | None,
        item_ids: Sequence[str],
        wire: Wire,
        timeout: float,
    ) -> StoredRows:
        if not wire.open:
            await wire.connect(timeout)
        cache = self.caches.of(layouts)
        if cache.connection != wire.connection:
            self.caches.begin(cache, [wire], wire.connection)
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
            decode = _rows_decoder(layouts, cache, missing_ids, count, wire)
            replies, read_rows = await wire.ask(commands + reads, count + reads_count, timeout, decode)
            rows.put(cached.missing, read_rows)
        else:
            replies = await wire.ask(commands, count, timeout)

        # Read rows again that were taken from the cache and have been removed from it since.
        if cache.changes != cached.changes:
            just_read = set(cached.missing)
            changed = [place for place in cache.take(item_ids).missing if place not in just_read]
            if changed:
                changed_ids = [item_ids[place] for place in changed]
                reads, reads_count = item_reads(item_prefix(layouts.fingerprint), changed_ids)
                decode = _rows_decoder(layouts, cache, changed_ids, 0, wire)
                rows.put(changed, (await wire.ask(reads, reads_count, timeout, decode))[1])
        stored = stored_rows(layouts, replies[: len(of_user)], rows)
        if counters is not None:
            stored.counters = counters.stored(replies[len(of_user) : count], stored.corrupt)
            stored.unread += stored.counters.unread
        return stored

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

    def cache_counts(self) -> dict[str, int]:
        """Return the counts since the last call, and present sizes."""
        staleness = self._replicas.staleness_seconds if self._replicas is not None else 0.0
        return self.caches.counts() | self._counts.taken(staleness)

    def close(self) -> None:
        if self._replicas is not None:
            self._replicas.close()
        self._wire.close()


def _rows_decoder(
    layouts: Layouts, cache: ItemCache, item_ids: list[str], ahead: int, wire: Wire
) -> Callable[[list[Any]], tuple[list[Any], ItemRows]]:
    """Return a function that converts replies to item rows; the first `ahead` replies are not item rows.

    The cache gets the rows before Redis can announce a later change, even if the request has given up.
    """
    connection = wire.connection

    def decode(replies: list[Any]) -> tuple[list[Any], ItemRows]:
        rows = rows_from_store(layouts, item_ids, _joined(replies[ahead:], len(item_ids)))
        if cache.connection == connection == wire.connection:
            cache.keep(item_ids, rows)
        return replies, rows

    return decode


def _joined(replies: list[Any], n: int) -> list[bytes | None]:
    """Concatenate the replies to the MGETs of `item_reads` into the rows of `n` items. Raises StoreDown."""
    if len(replies) == 1:
        return packed_rows(replies[0], n)
    rows: list[bytes | None] = []
    for place, reply in enumerate(replies):
        rows += packed_rows(reply, min(MGET_KEYS, n - place * MGET_KEYS))
    return rows
