"""Answers pages of other origins (CORS): those that the settings list may rank, look, and report events."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access.caller_keys import NEVER_ANONYMOUS, needed_role
from service.callers.document import CallerRole
from service.metrics.metrics import Metrics

_WRITING: Final = frozenset({"/events", "/impressions"})
_PREFLIGHT_SECONDS: Final = b"600"
_REQUEST_HEADERS: Final = b"authorization, content-type, traceparent, tracestate, x-request-id"
_ANSWER_HEADERS: Final = b"etag, retry-after, traceparent, x-request-id"
_METHOD_HEADER: Final = b"access-control-request-method"
Methods = Callable[[str], set[str]]


def open_to_origins(method: str, path: str) -> bool:
    """Return whether pages of listed origins may make a call: it reads, or it reports what a user saw and did.

    Operators' calls are never open.
    """
    if path.startswith(NEVER_ANONYMOUS):
        return False
    role = needed_role(method, path, metrics_are_open=True)
    return role is None or role == CallerRole.READ or (role == CallerRole.WRITE and path in _WRITING)


class CrossOrigin:
    """Wraps the application if the settings list origins. `methods` returns the methods of a path."""

    def __init__(self, app: ASGIApp, origins: frozenset[str], methods: Methods, metrics: Metrics) -> None:
        self.app = app
        self.origins = frozenset(origin.encode() for origin in origins)
        self.methods = methods
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        requested_methods = [value for name, value in scope["headers"] if name == _METHOD_HEADER]
        origin = origins[0] if len(origins) == 1 and origins[0] in self.origins else None
        if origin is not None and scope["method"] == "OPTIONS" and requested_methods:
            methods = self._open_methods(scope["path"])
            if methods:
                await self._preflight(origin, methods, send)
                return
        listed = origin if origin is not None and open_to_origins(scope["method"], scope["path"]) else None
        await self.app(scope, receive, _with_headers(send, listed))

    def _open_methods(self, path: str) -> list[str]:
        return sorted(method for method in self.methods(path) if open_to_origins(method, path))

    async def _preflight(self, origin: bytes, methods: list[str], send: Send) -> None:
        started = monotonic()
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
            (b"vary", b"Origin"),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        self.metrics.finished("other", "preflight", monotonic() - started)


def _with_headers(send: Send, origin: bytes | None) -> Send:
    """Return a `send` that permits a page of the origin to read the answer."""
    # Caches must not give one origin's answer to another, so every answer says what it depends on.
    more = [(b"vary", b"Origin")]
    if origin is not None:
        more += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _ANSWER_HEADERS)]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *more]
        await send(message)

    return send_with_headers
