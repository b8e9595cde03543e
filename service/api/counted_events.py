"""Adds events and impressions to the counters of feature schemas."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from features.layouts import Layouts, rows_of
from service.api.live_writes import all_done
from service.api.services import Services
from service.errors import StoreUnavailable
from service.store.base import StoreDown
from service.store.counters import CountedEvent, counter_writes

_AT_ONCE = 250  # events; other requests run in between


async def count_events(worker: Services, schemas: Sequence[Layouts], events: Iterable[CountedEvent]) -> None:
    """Add events, none of which was counted before, to the counters of `schemas`. Raises StoreUnavailable."""
    if not schemas:
        return
    iterator = iter(events)
    while part := list(islice(iterator, _AT_ONCE)):
        await all_done(_count(worker, layouts, part) for layouts in schemas)
        await asyncio.sleep(0)


async def _count(worker: Services, layouts: Layouts, events: Sequence[CountedEvent]) -> None:
    keys: dict[str, np.ndarray] = {}
    if any(layout.item_features for layout in layouts.counters):
        keys = await _item_keys(worker, layouts, list(dict.fromkeys(event.item_id for event in events)))
    await worker.writer.add_counts(layouts, counter_writes(layouts, events, keys))


async def _item_keys(worker: Services, layouts: Layouts, item_ids: list[str]) -> dict[str, np.ndarray]:
    """The keys int64 `[K]` of the present rows of items."""
    try:
        rows = await worker.reader.item_rows(layouts, item_ids)
    except StoreDown as error:
        raise StoreUnavailable(str(error)) from None
    keys = rows_of(layouts.item, b"".join(rows), len(rows))["keys"]
    return dict(zip(item_ids, keys, strict=True))
