"""Counts the open connections of one worker and limits them: at the limit, an idle one is closed for a new one."""

import logging
import resource
import time
from typing import Protocol

from service.metrics.metrics import Metrics
from service.settings import Settings

log = logging.getLogger("funnelrank.server")
CONNECTIONS = "connections"  # the key in the state that the lifespan hands to every connection
_SPARE_FILES = 128  # for Redis, the registry, threads
_LOG_SECONDS = 10.0


class Closable(Protocol):
    """A connection that can be closed while it is idle."""

    def close_idle(self) -> None: ...


class Connections:
    """The connections of one worker, and the limits of each."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.read_timeout_s = settings.read_timeout_ms / 1000
        self.write_timeout_s = settings.write_timeout_ms / 1000
        self._most = most_connections(settings.max_connections)
        self._open = 0
        self._idle: dict[Closable, None] = {}  # in the order in which they became idle
        self._metrics = metrics
        self._logged_at = float("-inf")

    def opened(self, connection: Closable) -> bool:
        """Count a new connection and, if the limit is exceeded, close the connection that has been idle longest.

        Returns False if none is idle; the new connection must then be refused.
        """
        self._open += 1
        has_room = True
        if self._open > self._most:
            has_room = bool(self._idle)
            if has_room:
                oldest = next(iter(self._idle))
                self.busy(oldest)
                oldest.close_idle()
            self.cut("idle" if has_room else "refused")
            self._log_limit()
        self._metrics.connections.set(self._open)
        return has_room

    def closed(self, connection: Closable) -> None:
        self._open -= 1
        self._idle.pop(connection, None)
        self._metrics.connections.set(self._open)

    def idle(self, connection: Closable) -> None:
        self._idle[connection] = None

    def busy(self, connection: Closable) -> None:
        self._idle.pop(connection, None)

    def cut(self, reason: str) -> None:
        """Count a connection that the service ends for `reason`."""
        self._metrics.connections_cut.labels(reason).inc()

    def _log_limit(self) -> None:
        now = time.monotonic()
        if now - self._logged_at > _LOG_SECONDS:
            self._logged_at = now
            log.warning(
                "%d connections are open, the limit of this worker (FUNNELRANK_MAX_CONNECTIONS, open files): "
                "idle ones are closed, then new ones are refused",
                self._most,
            )


def most_connections(setting: int) -> int:
    """Return the limit of connections: the setting, reduced to what the limit of open files allows.

    A quarter of the files stays free, because many connections may be accepted before the first of them is closed.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return setting
    return max(1, min(setting, files - max(_SPARE_FILES, files // 4)))
