"""Decides which feature schemas live writes go to: all schemas in use, so that versions before and after a rollout stay
fresh.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from time import monotonic
from typing import TypeVar

from features.layouts import Layouts
from features.times import LATEST_AHEAD_MS
from service.api.problems import ERRORS_SHOWN
from service.clock import now_ms
from service.errors import FieldError, InvalidRequest, NotReady, StoreUnavailable
from service.rollout.following.follower import Follower
from service.store.base import FeatureStore, StoreDown
from service.store.schemas import schema_of

log = logging.getLogger("funnelrank.store")
T = TypeVar("T")
_LIST_SECONDS = 10.0  # how late a schema with the first counters may be seen


class WriteTargets:
    """The schemas that one worker's live writes go to.

    The list in Redis is read for every write, so that a write always uses the current list.
    """

    def __init__(self, follower: Follower, reader: FeatureStore) -> None:
        self._follower = follower
        self._reader = reader
        self._listed: dict[str, Layouts | None] = {}
        self._read_again_at = 0.0

    async def layouts(self) -> list[Layouts]:
        """Return the layouts of every schema of a loaded version or listed in Redis, the stable version's first.

        If two schemas share their rows, the one with longer behaviour sequences is used. Raises NotReady and
        StoreUnavailable.
        """
        self._follower.current()
        loaded = [live.bundle.layouts for live in self._follower.snapshot.loaded()]
        try:
            documents = await self._reader.schemas()
        except StoreDown as error:
            raise StoreUnavailable(f"nothing was written: {error}") from None
        # A schema's layouts are made once, not for every write.
        known = self._listed
        self._listed = {
            fingerprint: known[fingerprint] if fingerprint in known else _layouts_of(fingerprint, document)
            for fingerprint, document in documents.items()
        }
        chosen: dict[str, Layouts] = {}
        for layouts in (*loaded, *filter(None, self._listed.values())):
            other = chosen.get(layouts.fingerprint)
            if other is None or layouts.max_behaviours > other.max_behaviours:
                chosen[layouts.fingerprint] = layouts
        return list(chosen.values())

    async def counted(self) -> list[Layouts]:
        """Return the layouts of schemas with counters. Without one, the list in Redis is read only now and then.

        Raises StoreUnavailable.
        """
        loaded = [live.bundle.layouts for live in self._follower.snapshot.loaded()]
        known = [*loaded, *filter(None, self._listed.values())]
        if not any(layouts.counters for layouts in known) and monotonic() < self._read_again_at:
            return []
        self._read_again_at = monotonic() + _LIST_SECONDS
        try:
            return [layouts for layouts in await self.layouts() if layouts.counters]
        except NotReady:
            return []


def _layouts_of(fingerprint: str, document: str) -> Layouts | None:
    """Return the layouts of a schema that Redis lists, None if the schema cannot be read."""
    try:
        layouts = Layouts.of(schema_of(document))
        if layouts.fingerprint != fingerprint:
            raise ValueError(f"its schema has the fingerprint {layouts.fingerprint}")
    except ValueError as error:
        log.warning("schema %s on Redis' list cannot be read, so live writes do not go to it: %s", fingerprint, error)
        return None
    log.info("Redis lists schema %s: live writes go to it", fingerprint)
    return layouts


def check_times(field: str, times_ms: Sequence[int]) -> None:
    """Refuse entries of `field` whose time is later than this clock. Raises InvalidRequest."""
    latest = now_ms() + LATEST_AHEAD_MS
    message = f"lies more than {LATEST_AHEAD_MS // 60_000} minutes ahead; milliseconds since 1970 are expected"
    bad = [FieldError(f"{field}[{i}].timestamp", message) for i, time_ms in enumerate(times_ms) if time_ms > latest]
    if bad:
        raise InvalidRequest(f"{bad[0].field}: {bad[0].message}", errors=bad[:ERRORS_SHOWN])


async def all_done(writes: Iterable[Awaitable[T]]) -> list[T]:
    """Return the results of concurrent writes. All of them finish; then the first error is raised."""
    results = await asyncio.gather(*writes, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
