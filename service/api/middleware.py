"""Wraps every request: its id and trace, its count and duration, and the envelope of its errors."""

import logging
import re
from collections.abc import Callable
from random import getrandbits
from time import monotonic
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import admitted
from service.api.problems import PROBLEM_TYPE, InternalError, envelope, presentation_of
from service.api.services import Lifecycle, Services
from service.callers.callers import Grant
from service.errors import CallerLeft, ServiceError

log = logging.getLogger("funnelrank.api")
CONTEXT: Final = "funnelrank"
WRITE_ANSWER: Final = "funnelrank.write_answer"  # an extension of ASGI, which our server offers
WriteAnswer = Callable[[Send, int, list[tuple[bytes, bytes]], bytes], bool]
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class RequestContext:
    """Data about one request that is not in its body."""

    __slots__ = ("content_length", "grant", "outcome", "request_id", "started", "traceparent")

    def __init__(self, scope: Scope) -> None:
        self.started = monotonic()
        self.grant: Grant | None = None
        self.outcome = "ok"
        self.request_id = ""
        self.traceparent = b""
        self.content_length = 0  # as declared; 0 if it is not
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self.content_length = int(value)
            elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name == b"traceparent":
                self.traceparent = child_span(value)
        if not self.request_id:
            self.request_id = f"{getrandbits(128):032x}"  # nosec B311 # a name, not a secret


def child_span(traceparent: bytes) -> bytes:
    """Return the caller's trace with a new span; empty if the trace is not W3C version 00."""
    parts = _TRACEPARENT.fullmatch(traceparent)
    if parts is None or not any(parts[1].strip(b"0")) or not any(parts[2].strip(b"0")):
        return b""
    return b"00-%b-%016x-%b" % (parts[1], getrandbits(64) or 1, parts[3])  # nosec B311 # a name, not a secret


class RequestMiddleware:
    """Wraps every HTTP request once."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app = app
        self.lifecycle = services.lifecycle
        self.metrics = services.metrics
        self.callers = services.callers
        self.metrics_are_open = not services.settings.metrics_need_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = scope[CONTEXT] = RequestContext(scope)
        response = ResponseSender(send, context, self.lifecycle, scope.get("extensions", {}).get(WRITE_ANSWER))
        try:
            # Without a callers document there is nothing to check here.
            if self.callers.grants is not None:
                context.grant = admitted(scope, self.callers, context.started, self.metrics_are_open)
            await self.app(scope, receive, response)
        except ServiceError as error:
            await response.problem(error)
        # The caller has gone, so the request is only counted.
        except (CallerLeft, ClientDisconnect):
            context.outcome = "client_gone"
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": context.request_id, "path": scope["path"]}})
            await response.problem(InternalError("the service failed; its log has the request_id"))
        finally:
            # The router sets the route. An unknown path is not used as a label, so that callers cannot create labels.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.finished(route, context.outcome, monotonic() - context.started)


class ResponseSender:
    """`send` that adds the headers of every response.

    The head waits for the first part of the body, so that a server that can do so (`write_answer`) writes both at once.
    """

    __slots__ = ("context", "head", "lifecycle", "send", "started", "write_answer")

    def __init__(
        self, send: Send, context: RequestContext, lifecycle: Lifecycle, write_answer: WriteAnswer | None
    ) -> None:
        self.send = send
        self.context = context
        self.lifecycle = lifecycle
        self.write_answer = write_answer
        self.head: Message | None = None
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.setdefault("headers", [])
            headers.append((b"x-request-id", self.context.request_id.encode()))
            if self.context.traceparent:
                headers.append((b"traceparent", self.context.traceparent))
            if self.lifecycle.draining:
                headers.append((b"connection", b"close"))
            self.head = message
            return
        head = self.head
        if head is not None:
            self.head = None
            self.started = True
            write = None if message.get("more_body") else self.write_answer
            if write is not None and write(self.send, head["status"], head["headers"], message.get("body", b"")):
                return
            await self.send(head)
        await self.send(message)

    async def problem(self, error: ServiceError) -> None:
        """Send the error envelope, unless a part of another response has been sent already."""
        self.context.outcome = error.code
        # The caller has received a part of another response; the server then closes the connection.
        if self.started:
            return
        body = envelope(error, self.context.request_id)
        presentation = presentation_of(error)
        headers = MutableHeaders(
            headers={"content-type": PROBLEM_TYPE, "content-length": str(len(body)), **presentation.headers}
        )
        await self({"type": "http.response.start", "status": presentation.status, "headers": headers.raw})
        await self({"type": "http.response.body", "body": body})
