"""Records which items users were shown or acted on, for rules that read this. Every route that learns of it
calls this.
"""

from collections.abc import Iterable
from math import ceil

from service.api.services import Services
from service.store.shown import DAY_MS, ShownItem, packed_by_user


async def record_shown(worker: Services, items: Iterable[ShownItem]) -> int:
    """Store shown items for the longest time for which a live rule needs them; does nothing if no rule reads them.

    An item that is recorded twice for the same time counts once. Returns how many are new. Raises StoreUnavailable.
    """
    days = worker.follower.snapshot.exposure_days
    if not days:
        return 0
    return await worker.writer.add_shown(packed_by_user(items), ceil(days * DAY_MS))
