"""Reads a ranking's rows from a Redis Cluster. If a node is away, only its rows are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from features.layouts import Layouts
from service.addresses.redis_url import RedisAddress
from service.store.base import StoreDown, StoredRows
from service.store.item_cache import ItemCache
from service.store.item_rows import ItemRows, rows_from_store
from service.store.redis.keys import SCHEMAS, item_prefix
from service.store.redis.reading.cluster.asking import Answers, Command, ReplicaDown, ask
from service.store.redis.reading.cluster.node import Node
from service.store.redis.reading.cluster.topology import Topology
from service.store.redis.reading.commands import item_read, user_reads
from service.store.redis.reading.counters import CounterReads
from service.store.redis.reading.read_log import ReadLog
from service.store.redis.reading.replicas import ReplicaCounts
from service.store.redis.reading.replies import (
    documents,
    is_refusal,
    packed_rows,
    refusal,
    rows_or_unknown,
    stored_rows,
)
from service.store.redis.reading.schema_caches import SchemaCaches
from service.store.redis.reading.wire import packed

_SCHEMAS_SECONDS = 1.0


@dataclass(slots=True)
class _ItemAnswers:
    """Item rows of one read: `parts` are (candidate positions, rows), `unread` the positions without an answer.

    `ahead` has the replies to the commands that were sent before those for items; `silent` are the nodes that did not
    answer.
    """

    ahead: list[Any]
    parts: list[tuple[list[int], ItemRows]]
    unread: list[int]
    silent: set[Node]


class ClusterReader:
    """The reading side of a cluster for one worker.

    One cache holds the rows of all nodes; it is emptied when a connection is made or lost or a slot has moved. With
    `replica_lag_ms`, rankings read from replicas.
    """

    def __init__(
        self,
        address: RedisAddress,
        timeout_ms: int,
        cache_bytes: int = 0,
        cache_ttl_ms: int = 1000,
        replica_lag_ms: int = 0,
    ) -> None:
        self.caches = SchemaCaches(cache_bytes, cache_ttl_ms)
        self._topology = Topology(address, self.caches.on_push if cache_bytes else None, replica_lag_ms)
        self._counts = ReplicaCounts()
        self._log = ReadLog(self._topology.drop)
        self._schemas: dict[str, str] | None = None
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
        """Read as `SingleReader.fetch` does; raises StoreDown if neither the user nor any item could be read."""
        reads = user_reads(layouts, user_id, before, shown)
        reading = self._from_readers(layouts, reads, user_id, scene, item_ids, min(timeout, self.timeout))
        return await self._log.watch(reading, layouts.fingerprint)

    async def _from_readers(
        self,
        layouts: Layouts,
        of_user: list[Command],
        user_id: str,
        scene: str | None,
        item_ids: Sequence[str],
        timeout: float,
    ) -> StoredRows:
        """Read from replicas that are fresh enough. If one fails, read again in the second half of the time."""
        read = partial(self._read, layouts, of_user, user_id, scene, item_ids)
        self._topology.settle_readers()
        if not self._topology.reads_replica:
            return await read(timeout)
        end = monotonic() + timeout
        try:
            rows = await read(timeout / 2)
            self._counts.reads += 1
            return rows
        except ReplicaDown as error:
            self._counts.fallbacks += 1
            self._topology.set_aside(error.nodes, error)
        return await read(end - monotonic())

    async def _read(
        self,
        layouts: Layouts,
        of_user: list[Command],
        user_id: str,
        scene: str | None,
        item_ids: Sequence[str],
        timeout: float,
    ) -> StoredRows:
        await self._topology.connect(timeout)
        cache = self.caches.of(layouts)
        epoch = self._topology.epoch()
        if cache.connection != epoch:
            self.caches.begin(cache, self._topology.readers, epoch)
        cached = cache.take(item_ids)

        # Ask every node at once.
        counters = CounterReads(layouts, cache.counters, user_id, scene, item_ids) if layouts.counters else None
        ahead = [*of_user, *counters.apart()] if counters else of_user
        first = await self._ask_items(layouts, cache, item_ids, cached.missing, timeout, ahead)
        rounds = [first]

        # Read rows again that were taken from the cache and have been removed from it since.
        if cache.changes != cached.changes:
            just_read = set(cached.missing)
            changed = [place for place in cache.take(item_ids).missing if place not in just_read]
            if changed:
                rounds.append(await self._ask_items(layouts, cache, item_ids, changed, timeout, []))

        # Put the parts together. A cached row is valid only while its node answers: it may have changed without an
        # announcement.
        rows = cached.rows
        unread: set[int] = set()
        for answers in rounds:
            for places, part in answers.parts:
                rows.put(places, part)
            unread.update(answers.unread)
            if answers.silent:
                unread.update(self._places_of(answers.silent, item_prefix(layouts.fingerprint), item_ids))
        if unread:
            places = sorted(unread)
            rows.put(places, rows_from_store(layouts, [item_ids[i] for i in places], [None] * len(places)))
        stored = _stored(layouts, first.ahead[: len(of_user)], rows, len(unread), len(item_ids))
        if counters is not None:
            stored.counters = counters.stored(first.ahead[len(of_user) :], stored.corrupt)
            stored.unread += stored.counters.unread
        return stored

    async def _ask_items(
        self,
        layouts: Layouts,
        cache: ItemCache,
        item_ids: Sequence[str],
        places: Sequence[int],
        timeout: float,
        ahead: list[Command],
    ) -> _ItemAnswers:
        """Read the items at `places`, together with the request's first commands `ahead`, from all nodes."""
        count = len(ahead)
        epoch = self._topology.epoch()

        def decode(of_node: Sequence[int], replies: list[Any], announces: bool) -> tuple[list[int], ItemRows] | None:
            """Return one node's item rows. The cache gets them before the node can announce a later change."""
            # This node's replies to item reads, without refusals.
            numbered = zip(of_node, replies, strict=True)
            item_replies = [(places[at - count], reply) for at, reply in numbered if at >= count]
            item_replies = [(place, reply) for place, reply in item_replies if not isinstance(reply, Exception)]
            if not item_replies:
                return None
            places_read = [place for place, _ in item_replies]
            ids = [item_ids[place] for place in places_read]
            rows = rows_from_store(layouts, ids, [packed_rows(reply, 1)[0] for _, reply in item_replies])
            # A node or slot that changed meanwhile may have lost an announcement, so nothing is cached then.
            if announces and cache.connection == epoch == self._topology.epoch():
                cache.keep(ids, rows)
            return places_read, rows

        items = _item_commands(item_prefix(layouts.fingerprint), [item_ids[place] for place in places])
        commands = [*ahead, *items]
        answers = await ask(
            self._topology, commands, timeout, decode if items else None, everywhere=bool(ahead), replicas=True
        )
        of_items = zip(places, answers.replies[count:], strict=True)
        unread = [place for place, reply in of_items if isinstance(reply, Exception)]
        return _ItemAnswers(answers.replies[:count], answers.parts, unread, answers.silent)

    def _places_of(self, nodes: set[Node], prefix: str, item_ids: Sequence[str]) -> list[int]:
        reader = self._topology.reader
        return [place for place, item_id in enumerate(item_ids) if reader((prefix + item_id).encode()) in nodes]

    async def item_rows(self, layouts: Layouts, item_ids: Sequence[str]) -> list[bytes]:
        """Read the packed rows of items; defaults for items without a row. Raises StoreDown if any node does not
        answer.
        """
        answers = await self._ask(_item_commands(item_prefix(layouts.fingerprint), item_ids), self.timeout)
        return rows_or_unknown(layouts, item_ids, [packed_rows(reply, 1)[0] for reply in answers.replies])

    async def schemas(self) -> dict[str, str]:
        """Return the loaded schemas; if their node is away, those that were read last. Raises StoreDown."""
        commands = [(SCHEMAS.encode(), packed("HGETALL", SCHEMAS))]
        answers = await self._ask(commands, max(self.timeout, _SCHEMAS_SECONDS))
        self._topology.learn_soon()
        (reply,) = answers.replies
        if not isinstance(reply, Exception):
            self._schemas = documents(reply)
        elif self._schemas is None or not isinstance(reply, StoreDown) or not self._topology.nodes:
            raise refusal(reply, "HGETALL")
        return self._schemas

    async def _ask(self, commands: Sequence[Command], timeout: float) -> Answers:
        await self._topology.connect(timeout)
        return await ask(self._topology, commands, timeout)

    def cache_counts(self) -> dict[str, int]:
        """Return the counts since the last call, and present sizes."""
        return self.caches.counts() | self._counts.taken(self._topology.staleness_seconds)

    def close(self) -> None:
        self._topology.close()


def _item_commands(prefix: str, item_ids: Sequence[str]) -> list[Command]:
    keys = [(prefix + item_id).encode() for item_id in item_ids]
    return [(key, item_read(key)) for key in keys]


def _stored(layouts: Layouts, ahead: Sequence[Any], items: ItemRows, unread: int, candidates: int) -> StoredRows:
    """Return the rows of a request. Missing replies for the user count as one more unread row. Raises StoreDown."""
    of_user = list(ahead)
    refused = [reply for reply in of_user if is_refusal(reply)]
    if refused:
        if unread == candidates:
            raise refusal(refused[0], "GET")
        unread += 1
        nothing: list[Any] = [None, *([[]] if layouts.behaviour is not None else []), None]
        of_user = [default if is_refusal(reply) else reply for reply, default in zip(of_user, nothing, strict=False)]
    stored = stored_rows(layouts, of_user, items)
    stored.unread = unread
    return stored
