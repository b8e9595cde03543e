"""Wraps every request: its id and trace, its count and duration, and the envelope of its errors."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access.caller_keys import admitted
from service.api.context import CONTEXT, RequestContext
from service.api.problems import PROBLEM_TYPE, InternalError, envelope, presentation_of
from service.api.services import Lifecycle, Services
from service.errors import CallerLeft, ServiceError
from service.log import TRACE_ID
from service.tracing.context import new_trace
from service.tracing.marks import Marks

log = logging.getLogger("funnelrank.api")
WRITE_ANSWER: Final = "funnelrank.write_answer"  # an extension of ASGI, which our server offers
WriteAnswer = Callable[[Send, int, list[tuple[bytes, bytes]], bytes], bool]


class RequestMiddleware:
    """Wraps every HTTP request once."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app = app
        self.lifecycle = services.lifecycle
        self.metrics = services.metrics
        self.callers = services.callers
        self.tracing = services.tracing
        self.metrics_are_open = not services.settings.metrics_need_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = scope[CONTEXT] = RequestContext(scope)
        tracing = self.tracing
        if tracing is not None:
            context.marks = Marks()
            context.trace = context.trace or new_trace(tracing.share)
        if context.trace is not None:
            # Each request is served in a task of its own, with which this ends.
            TRACE_ID.set(context.trace.trace_id)
        response = ResponseSender(send, context, self.lifecycle, scope.get("extensions", {}).get(WRITE_ANSWER))
        try:
            # Without a callers document there is nothing to check here.
            if self.callers.grants is not None:
                context.grant = admitted(scope, self.callers, context.started, self.metrics_are_open)
            await self.app(scope, receive, response)
        except ServiceError as error:
            await response.problem(error)
        # The caller has left, so the request is only counted.
        except (CallerLeft, ClientDisconnect):
            context.outcome = "client_gone"
        except Exception:
            log.exception("request failed", extra={"fields": {"request_id": context.request_id, "path": scope["path"]}})
            await response.problem(InternalError("the service failed; its log has the request_id"))
        finally:
            # The router sets the route. An unknown path is not used as a label, so that callers cannot create labels.
            route = getattr(scope.get("route"), "path", "other")
            ended = monotonic()
            self.metrics.finished(route, context.outcome, ended - context.started)
            if tracing is not None:
                tracing.finished(scope, context, response.status, ended)


class ResponseSender:
    """`send` that adds the headers of every response.

    The head waits for the first part of the body, so that a server that can do so (`write_answer`) writes both at once.
    """

    __slots__ = ("context", "head", "lifecycle", "send", "started", "status", "write_answer")

    def __init__(
        self, send: Send, context: RequestContext, lifecycle: Lifecycle, write_answer: WriteAnswer | None
    ) -> None:
        self.send = send
        self.context = context
        self.lifecycle = lifecycle
        self.write_answer = write_answer
        self.head: Message | None = None
        self.status = 0
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.setdefault("headers", [])
            headers.append((b"x-request-id", self.context.request_id.encode()))
            if self.context.trace is not None:
                headers.append((b"traceparent", self.context.trace.traceparent()))
            if self.lifecycle.draining:
                headers.append((b"connection", b"close"))
            self.head = message
            self.status = message["status"]
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
