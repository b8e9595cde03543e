"""Records what users were shown or acted on, for the rules that read it. Every route that hears of it calls this."""

from collections.abc import Iterable
from math import ceil

from service.api.services import Services
from service.store.shown import DAY_MS, ShownItem, packed_by_user


async def record_shown(worker: Services, items: Iterable[ShownItem]) -> int:
    """Store shown items for the longest time that a live rule looks back; does nothing if no rule reads them.

    An item that is recorded twice for the same time counts once. Returns how many are new. Raises StoreUnavailable.
    """
    days = worker.follower.snapshot.exposure_days
    if not days:
        return 0
    return await worker.writer.add_shown(packed_by_user(items), ceil(days * DAY_MS))
