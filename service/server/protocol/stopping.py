"""Ends a connection while the server stops, without losing a request that its caller could not know to be too late."""

import asyncio
from typing import Any

from service.server.protocol.writing import WatchedWriting

_FIRST_REQUEST_SECONDS = 1.0  # after a connection was opened


class EndingConnection(WatchedWriting):
    """A connection that, when the server stops, still answers a request that arrives or is about to.

    uvicorn closes every connection that owes no answer, also one whose request is half here, and one that was accepted
    a moment ago and whose first request is on its way.
    """

    _arriving = False  # a request has begun and is not complete
    _stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._opened_at = self.loop.time()

    def shutdown(self) -> None:
        wait = self._opened_at + _FIRST_REQUEST_SECONDS - self.loop.time()
        is_new = self._is_unused() and wait > 0
        if not (self._arriving or is_new):
            super().shutdown()
            return
        self._stopping = True
        if not self._arriving:
            self.loop.call_later(wait, self._end_unused)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._stopping:
            self.cycle.keep_alive = False

    def _is_unused(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is None and not self._arriving

    def _end_unused(self) -> None:
        if self._is_unused():
            self._close()
