"""Owns where live writes go: to the rows of every feature schema in use, so that a schema which is being rolled out or left keeps fresh."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from features.layouts import Layouts
from service.errors import StoreUnavailable
from service.rollout.follower import Follower
from service.store.base import FeatureStore, StoreDown
from service.store.schemas import schema_of

log = logging.getLogger("funnelrank.store")
T = TypeVar("T")


class Written:
    """The schemas that one worker's live writes go to. The list in Redis is read for every write, so that one which begins after a schema was
    put on the list, or taken off it, obeys.
    """

    def __init__(self, follower: Follower, reader: FeatureStore) -> None:
        self._follower = follower
        self._reader = reader
        self._listed: dict[str, Layouts | None] = {}

    async def layouts(self) -> list[Layouts]:
        """Of every schema that a loaded version has or Redis lists, the stable version's first. Raises NotReady and StoreUnavailable.

        Of two that share their rows it is the one that keeps more behaviours.
        """
        self._follower.current()
        loaded = [live.bundle.layouts for live in self._follower.snapshot.loaded()]
        try:
            documents = await self._reader.schemas()
        except StoreDown as error:
            raise StoreUnavailable(f"nothing was written: {error}") from None
        self._listed = {d: self._listed[d] if d in self._listed else _layouts(f, d) for f, d in documents.items()}
        chosen: dict[str, Layouts] = {}
        for layouts in (*loaded, *filter(None, self._listed.values())):
            kept = chosen.get(layouts.fingerprint)
            if kept is None or layouts.max_behaviours > kept.max_behaviours:
                chosen[layouts.fingerprint] = layouts
        return list(chosen.values())


def _layouts(fingerprint: str, document: str) -> Layouts | None:
    try:
        layouts = Layouts.of(schema_of(document))
        if layouts.fingerprint != fingerprint:
            raise ValueError(f"its schema has the fingerprint {layouts.fingerprint}")
    except ValueError as error:
        log.warning("schema %s on Redis' list cannot be read, so live writes do not go to it: %s", fingerprint, error)
        return None
    log.info("Redis lists schema %s: live writes go to it", fingerprint)
    return layouts


async def all_done(writes: Iterable[Awaitable[T]]) -> list[T]:
    """The results of writes that run at once, each to its end; then the first error is raised."""
    results = await asyncio.gather(*writes, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [r for r in results if not isinstance(r, BaseException)]
