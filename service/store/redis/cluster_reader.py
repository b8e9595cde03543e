"""Owns reading from a Redis Cluster: as from one Redis, but that what some nodes cannot give is missing while the others' rows are there."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from features.layouts import Layouts
from service.redis_url import seeds_of
from service.store.item_cache import ItemCache, ItemRows, rows_from_store
from service.store.keys import SCHEMAS, behaviours_key, item_prefix, user_key
from service.store.redis.cluster import Cluster, Command
from service.store.redis.reader import Reader, Stored, checked, documents, down, newest, refused
from service.store.redis.wire import StoreDown, packed


def open_reader(url: str, timeout_ms: int, cache_bytes: int = 0, cache_ttl_ms: int = 1000) -> Reader:
    """The reader for an address: of one Redis, or of a cluster."""
    kind = Reader if seeds_of(url) is None else ClusterReader
    return kind(url, timeout_ms, cache_bytes, cache_ttl_ms)


class ClusterReader(Reader):
    """The reading side of a cluster for one worker. One cache holds the rows of all nodes and is emptied when any node or slot changes."""

    def _reach(self, url: str, told: Callable[[list[Any]], None] | None) -> None:
        seeds = seeds_of(url)
        assert seeds is not None
        self._cluster = Cluster(seeds, told)
        self._schemas: dict[str, str] | None = None

    async def _fetch(
        self, layouts: Layouts, user_id: str, item_ids: Sequence[str], timeout: float, before: int | None
    ) -> Stored:
        await self._cluster.connect(timeout)
        cache = self._cache(layouts)
        behaviour = layouts.behaviour
        if cache.connection != (epoch := self._cluster.epoch()):
            self._begin(cache, self._cluster.nodes, epoch)
        taken = cache.take(item_ids)
        key = user_key(layouts.fingerprint, user_id)
        commands = [(key.encode(), packed("GET", key))]
        if behaviour is not None:
            key = behaviours_key(layouts.fingerprint, user_id)
            commands.append((key.encode(), newest(key, layouts.max_behaviours, before)))
        asking = _Asking(self._cluster, layouts, cache, item_ids, taken.rows)
        replies = await asking.ask(taken.missing, timeout, commands)
        if cache.changes != taken.changes and (gone := asking.gone(set(taken.missing))):
            await asking.ask(gone, timeout)
        asking.drop_unvouched()
        asking.over = True
        failed = [reply for reply in replies if isinstance(reply, Exception)]
        if failed and len(asking.unread) == len(item_ids):
            raise down(failed[0])
        user, *more = [None if isinstance(reply, Exception) else reply for reply in replies]
        stored = checked(layouts, user, (more[0] if more else None) or [], taken.rows)
        stored.unread = len(asking.unread) + bool(failed)
        return stored

    async def item_rows(self, layouts: Layouts, item_ids: Sequence[str]) -> list[bytes]:
        """The packed rows of items, defaults for those without one. Raises StoreDown where any node does not answer."""
        await self._cluster.connect(self.timeout)
        replies, _ = await self._cluster.ask(_reads(item_prefix(layouts.fingerprint), item_ids), self.timeout)
        return [
            layouts.row_or_unknown("item", item_id, row)
            for item_id, (row,) in zip(item_ids, refused(replies), strict=True)
        ]

    async def schemas(self) -> dict[str, str]:
        """What this cluster has been loaded with; what was last read of it while that node alone is away. Raises StoreDown."""
        timeout = max(self.timeout, 1.0)
        await self._cluster.connect(timeout)
        self._cluster.learn_soon()
        (reply,), _ = await self._cluster.ask([(SCHEMAS.encode(), packed("HGETALL", SCHEMAS))], timeout)
        if not isinstance(reply, Exception):
            self._schemas = documents(reply)
        elif self._schemas is None or not isinstance(reply, StoreDown) or not self._cluster.nodes:
            raise down(reply)
        return self._schemas

    def close(self) -> None:
        self._cluster.close()


class _Asking:
    """The item rows of one request on their way: `rows` fill up, `unread` are the places whose node does not answer. Once it is `over`, an answer
    that was too late goes to the cache alone.
    """

    def __init__(
        self, cluster: Cluster, layouts: Layouts, cache: ItemCache, item_ids: Sequence[str], rows: ItemRows
    ) -> None:
        self.cluster = cluster
        self.layouts = layouts
        self.cache = cache
        self.item_ids = item_ids
        self.rows = rows
        self.unread: set[int] = set()
        self.over = False
        self._silent: set[Any] = set()

    async def ask(self, missing: Sequence[int], timeout: float, ahead: Sequence[Command] = ()) -> list[Any]:
        """Read the items at the places `missing`, together with the commands `ahead`, whose replies are returned."""
        items = _reads(self.cache.prefix, [self.item_ids[place] for place in missing])
        took = partial(self._took, missing, len(ahead), self.cluster.epoch())
        replies, silent = await self.cluster.ask([*ahead, *items], timeout, took, everywhere=bool(ahead))
        self._silent |= silent
        self._drop(
            [place for place, reply in zip(missing, replies[len(ahead) :], strict=True) if isinstance(reply, Exception)]
        )
        return replies[: len(ahead)]

    def _took(self, missing: Sequence[int], ahead: int, epoch: int, asked: Sequence[int], replies: list[Any]) -> None:
        """Rows that were just read go to the request, and to the cache before their node can tell of a later change."""
        found = [
            (missing[at - ahead], reply[0])
            for at, reply in zip(asked, replies, strict=True)
            if at >= ahead and isinstance(reply, list)
        ]
        if not found:
            return
        places = [place for place, _ in found]
        ids = [self.item_ids[place] for place in places]
        came = rows_from_store(self.layouts, ids, [row for _, row in found])
        if not self.over:
            self.rows.put(places, came)
        if self.cache.connection == epoch == self.cluster.epoch():
            self.cache.keep(ids, came)

    def gone(self, fresh: set[int]) -> list[int]:
        """Places whose row was in the cache and is not any more; those that are `fresh` just came."""
        return [place for place in self.cache.take(self.item_ids).missing if place not in fresh]

    def drop_unvouched(self) -> None:
        """A row from the cache holds as long as its node answers: it might have changed without our being told."""
        if self._silent:
            prefix = self.cache.prefix
            owner = self.cluster.owner
            self._drop(
                [
                    place
                    for place, item_id in enumerate(self.item_ids)
                    if owner((prefix + item_id).encode()) in self._silent
                ]
            )

    def _drop(self, places: list[int]) -> None:
        if places:
            self.unread.update(places)
            self.rows.put(
                places, rows_from_store(self.layouts, [self.item_ids[place] for place in places], [None] * len(places))
            )


def _reads(prefix: str, item_ids: Sequence[str]) -> list[Command]:
    """One MGET per item: a cluster refuses one over several slots, and GET refuses what is no string where MGET says that nothing is there."""
    keys = [(prefix + item_id).encode() for item_id in item_ids]
    return [(key, b"*2\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (len(key), key)) for key in keys]
