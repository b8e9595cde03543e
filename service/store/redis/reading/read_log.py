"""Watches reads: logs when the store goes away and comes back, and which rows do not fit. Metrics count them.

A store that changes with every request must not fill the log, so an outage is logged only once in a while.
"""

import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from service.store.base import StoreDown, StoredRows
from service.store.redis.reading.connection import WrongReply

log = logging.getLogger("funnelrank.store")
_QUIET_SECONDS = 10.0


class ReadLog:
    """One worker's log lines about its reads. `drop` closes the connections, for the given reason."""

    def __init__(self, drop: Callable[[StoreDown], None]) -> None:
        self._drop = drop
        self._logged_down = False
        self._quiet_until = 0.0
        self._logged_corrupt: set[str] = set()

    async def watch(self, reading: Awaitable[StoredRows], fingerprint: str) -> StoredRows:
        """Wait for the rows of one read, and log it. After a wrong reply its connection is not used again.

        Raises StoreDown.
        """
        try:
            rows = await reading
        except StoreDown as error:
            self._note_down(error)
            if isinstance(error, WrongReply):
                self._drop(error)
            raise
        if self._logged_down or rows.corrupt:
            self._note_rows(rows, fingerprint)
        return rows

    def _note_down(self, error: StoreDown) -> None:
        """Log a failed read."""
        if not self._logged_down and monotonic() >= self._quiet_until:
            self._logged_down = True
            self._quiet_until = monotonic() + _QUIET_SECONDS
            log.warning("rankings do without the store: %s", error)

    def _note_rows(self, rows: StoredRows, fingerprint: str) -> None:
        """Log a successful read."""
        if self._logged_down:
            self._logged_down = False
            log.info("the store answers again")
        if new := sorted(rows.corrupt.keys() - self._logged_corrupt):
            self._logged_corrupt.update(new)
            log.warning("rows in Redis that do not fit schema %s count as missing: %s", fingerprint, ", ".join(new))
