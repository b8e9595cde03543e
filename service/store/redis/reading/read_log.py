"""The log of reads: when the store goes away and comes back, and which rows do not fit. Metrics count how often.

A store that goes and comes with every request must not fill the log, so that an outage is logged once in a while.
"""

import logging
from time import monotonic

from service.store.base import StoreDown, StoredRows

log = logging.getLogger("funnelrank.store")
_QUIET_SECONDS = 10.0


class ReadLog:
    """One worker's log lines about its reads."""

    def __init__(self) -> None:
        self._logged_down = False
        self._quiet_until = 0.0
        self._logged_corrupt: set[str] = set()

    def note_down(self, error: StoreDown) -> None:
        """A read that failed."""
        if not self._logged_down and monotonic() >= self._quiet_until:
            self._logged_down = True
            self._quiet_until = monotonic() + _QUIET_SECONDS
            log.warning("rankings are made without the store: %s", error)

    def note_rows(self, rows: StoredRows, fingerprint: str) -> None:
        """A read that went well."""
        if self._logged_down:
            self._logged_down = False
            log.info("the store answers again")
        if not rows.corrupt:
            return
        if new := sorted(rows.corrupt.keys() - self._logged_corrupt):
            self._logged_corrupt.update(new)
            log.warning("rows in Redis that do not fit schema %s are taken as missing: %s", fingerprint, ", ".join(new))
