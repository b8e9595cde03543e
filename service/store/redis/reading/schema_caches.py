"""The item caches of one worker, one per feature schema; Redis announces which rows have changed.

The announcements arrive on the reading connection, in order with the replies: a ranking that starts after the answer to
a write sees the written values.
"""

import logging
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from features.layouts import Layouts
from service.store.item_cache import COUNTS, ItemCache
from service.store.redis.keys import ITEM_MARK, item_prefix
from service.store.redis.reading.wire import Wire, packed

log = logging.getLogger("funnelrank.store")


class SchemaCaches:
    """Item caches by schema. A cache is dropped with the last bundle that uses its layouts."""

    def __init__(self, limit_bytes: int, ttl_ms: int) -> None:
        self._limit_bytes = limit_bytes
        self._ttl_seconds = ttl_ms / 1000
        self._by_layouts: dict[int, ItemCache] = {}
        self._logged_unannounced = False

    def distinct(self) -> list[ItemCache]:
        """The caches, one per feature schema in use."""
        return list({id(cache): cache for cache in self._by_layouts.values()}.values())

    def counts(self) -> dict[str, int]:
        """The caches' counts since the last call, and their present size in bytes."""
        caches = self.distinct()
        counts = {name: sum(getattr(cache, name) for cache in caches) for name in COUNTS}
        for cache in caches:
            cache.reset_counts()
        return counts | {"bytes": sum(cache.bytes_used for cache in caches)}

    def of(self, layouts: Layouts) -> ItemCache:
        """Return the cache of a schema; bundles of the same schema share it."""
        cache = self._by_layouts.get(id(layouts))
        if cache is not None:
            return cache
        shared = [c for c in self._by_layouts.values() if c.fingerprint == layouts.fingerprint]
        cache = shared[0] if shared else ItemCache(layouts, self._limit_bytes, self._ttl_seconds)
        self._by_layouts[id(layouts)] = cache
        weakref.finalize(layouts, self._by_layouts.pop, id(layouts), None)
        return cache

    def begin(self, cache: ItemCache, wires: Sequence[Wire], connection: int) -> None:
        """Empty a cache for new connections, and ask Redis before the first read to announce changes on them."""
        announced = bool(cache.capacity) and all(wire.pushes for wire in wires)
        cache.start_over(connection, announced)
        if not announced:
            self._log_unannounced(cache, "it does not speak RESP3")
            return
        prefix = item_prefix(cache.fingerprint)
        for wire in wires:
            if prefix not in wire.prefixes:  # Redis refuses a prefix that overlaps with an earlier one
                wire.prefixes.add(prefix)
                command = packed("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
                wire.send_ahead(command, partial(self._tracking, cache, wire, connection))

    def _tracking(self, cache: ItemCache, wire: Wire, connection: int, replies: list[Any]) -> None:
        """Handle the reply to CLIENT TRACKING. If Redis refuses, rows are cached only for a short time."""
        if isinstance(replies[0], Exception):
            self._log_unannounced(cache, str(replies[0]))
            wire.prefixes.discard(item_prefix(cache.fingerprint))
            cache.start_over(connection, announced=False)

    def on_push(self, push: list[Any]) -> None:
        """Handle a push message about changed rows. A message without keys, or an unreadable one, means that all may
        have changed.
        """
        if not push or push[0] != b"invalidate":
            return
        keys = push[1] if len(push) > 1 else None
        if not isinstance(keys, list) or not all(type(key) is bytes for key in keys):
            for cache in self.distinct():
                cache.clear()
            return
        caches = {item_prefix(cache.fingerprint).encode(): cache for cache in self.distinct()}
        for key in keys:
            head, mark, item_id = key.partition(ITEM_MARK)
            changed = caches.get(head + mark)  # Redis announces a schema out of use until the connection ends
            if changed is not None:
                changed.forget(item_id.decode(errors="replace"))

    def _log_unannounced(self, cache: ItemCache, reason: str) -> None:
        if cache.capacity and not self._logged_unannounced:
            self._logged_unannounced = True
            seconds = cache.ttl_seconds
            log.warning("Redis does not announce changes (%s); item rows are cached for at most %g s", reason, seconds)
