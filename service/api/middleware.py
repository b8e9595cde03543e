"""Owns what holds for every request: its id and trace, the bound on work, the count and time of it, and the envelope of every error."""

import logging
import re
from collections.abc import Mapping
from random import getrandbits
from time import monotonic
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.openapi import OPERATIONS
from service.api.problems import PROBLEM_TYPE, InternalError, envelope, presentation_of
from service.errors import CallerLeft, ServiceError
from service.metrics.metrics import Metrics

log = logging.getLogger("funnelrank.api")
CONTEXT: Final = "funnelrank"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
ROUTES: Final = frozenset(path for _, path in OPERATIONS) | {"/openapi.json", "/docs"}


class RequestContext:
    """What one request carries beside its body."""

    __slots__ = ("outcome", "request_id", "started", "traceparent")

    def __init__(self, scope: Scope) -> None:
        self.started = monotonic()
        self.outcome = "ok"
        self.request_id = ""
        self.traceparent = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name == b"traceparent":
                self.traceparent = passed_on(value)
        if not self.request_id:
            self.request_id = f"{getrandbits(128):032x}"  # nosec B311 # a name, no secret


def passed_on(traceparent: bytes) -> bytes:
    """The caller's trace with a span of our own; empty where it is not W3C version 00."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not any(found[1].strip(b"0")) or not any(found[2].strip(b"0")):
        return b""
    return b"00-%b-%016x-%b" % (found[1], getrandbits(64) or 1, found[3])  # nosec B311 # a name, no secret


class Lifecycle:
    """Whether this worker is about to stop."""

    def __init__(self) -> None:
        self.draining = False


class Front:
    """The application as the server sees it: what `direct` has by method and path is called straight away, the rest goes to `app`.

    For a ranking the framework's own layers and its search for the route would cost as much as all checks of the request.
    """

    def __init__(self, app: ASGIApp, direct: Mapping[tuple[str, str], ASGIApp]) -> None:
        self.app = app
        self.direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (found or self.app)(scope, receive, send)


class Edge:
    """Wraps an application: every request that is HTTP goes through it, once."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, metrics: Metrics) -> None:
        self.app = app
        self.lifecycle = lifecycle
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = scope[CONTEXT] = RequestContext(scope)
        answer = Answer(send, context, self.lifecycle)
        try:
            await self.app(scope, receive, answer)
        except ServiceError as error:
            await answer.problem(error)
        except (CallerLeft, ClientDisconnect):
            context.outcome = "client_gone"
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": context.request_id, "path": scope["path"]}})
            await answer.problem(InternalError("the service failed; its log has the request_id"))
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self.metrics.finished(route, context.outcome, monotonic() - context.started)


class Answer:
    """`send` that adds the headers every answer has."""

    __slots__ = ("context", "lifecycle", "send", "started")

    def __init__(self, send: Send, context: RequestContext, lifecycle: Lifecycle) -> None:
        self.send = send
        self.context = context
        self.lifecycle = lifecycle
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = message.setdefault("headers", [])
            headers.append((b"x-request-id", self.context.request_id.encode()))
            if self.context.traceparent:
                headers.append((b"traceparent", self.context.traceparent))
            if self.lifecycle.draining:
                headers.append((b"connection", b"close"))
        await self.send(message)

    async def problem(self, error: ServiceError) -> None:
        """The envelope, unless part of another answer is on its way already."""
        self.context.outcome = error.code
        if self.started:
            return
        body = envelope(error, self.context.request_id)
        presentation = presentation_of(error)
        headers = MutableHeaders(
            headers={"content-type": PROBLEM_TYPE, "content-length": str(len(body)), **presentation.headers}
        )
        await self({"type": "http.response.start", "status": presentation.status, "headers": headers.raw})
        await self.send({"type": "http.response.body", "body": body})
