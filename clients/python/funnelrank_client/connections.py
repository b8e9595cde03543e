"""Connections to one service, kept open and used again (HTTP/1.1, standard library)."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from types import TracebackType
from urllib.parse import urlsplit

from funnelrank_client.calls import Call, Reply
from funnelrank_client.errors import DeadlineExceeded, NoAnswer

# The errors of a connection that the service has closed before the first byte of an answer.
_CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class ConnectionPool:
    """Sends requests over connections that stay open. Threads may share it; each request uses a connection alone."""

    def __init__(self, url: str, context: ssl.SSLContext | None, idle: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a service: write http://HOST:PORT")
        self._parts = parts
        self._tls = context
        if parts.scheme == "https" and context is None:
            self._tls = ssl.create_default_context()
        self._idle_limit = idle
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def send(self, call: Call, headers: dict[str, str], timeout_s: float) -> Reply:
        """Send a request. Raises NoAnswer, and DeadlineExceeded after `timeout_s` without a part of the answer.

        A call that does not repeat gets a new connection and is sent once: a closed connection does not tell whether
        the service has read the request.
        """
        end = time.monotonic() + timeout_s
        connection = self._take() if call.repeats else None
        fresh = connection is None
        while True:
            connection = connection or self._open()
            try:
                return self._exchange(connection, call, headers, max(0.001, end - time.monotonic()))
            except _CLOSED as error:
                connection.close()
                if fresh or time.monotonic() >= end:
                    raise NoAnswer(f"the connection to {self._parts.netloc} broke: {error}") from error
                # The service has most probably closed the idle connection, so the request is sent on a new one.
                connection = None
                fresh = True
            except TimeoutError as error:
                connection.close()
                raise DeadlineExceeded(f"no answer from {self._parts.netloc} within {timeout_s:.3f} s") from error
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise NoAnswer(f"no answer from {self._parts.netloc}: {error!r}") from error
            except BaseException:
                connection.close()
                raise

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        call: Call,
        headers: dict[str, str],
        timeout_s: float,
    ) -> Reply:
        content = call.content()
        connection.timeout = timeout_s
        if connection.sock is None:
            connection.connect()  # it sets TCP_NODELAY
        connection.sock.settimeout(timeout_s)
        connection.request(call.method, self._parts.path.rstrip("/") + call.path, content, headers)
        answer = connection.getresponse()
        reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        if answer.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return reply

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _open(self) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._tls is not None:
            return http.client.HTTPSConnection(host, self._parts.port, context=self._tls)
        return http.client.HTTPConnection(host, self._parts.port)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < self._idle_limit:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            self._idle_limit = 0  # connections in use are closed when they come back
        for connection in idle:
            with contextlib.suppress(OSError):
                connection.close()

    def __enter__(self) -> ConnectionPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
