"""Holds what the service knows of one request beside its body."""

import re
from random import getrandbits
from time import monotonic
from typing import Final

from starlette.types import Scope

from service.callers.callers import Grant
from service.tracing.context import TraceContext, continued
from service.tracing.marks import Marks

CONTEXT: Final = "funnelrank"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestContext:
    """Data about one request that is not in its body."""

    __slots__ = ("content_length", "grant", "marks", "outcome", "request_id", "started", "trace")

    def __init__(self, scope: Scope) -> None:
        self.started = monotonic()
        self.grant: Grant | None = None
        self.outcome = "ok"
        self.request_id = ""
        self.trace: TraceContext | None = None
        self.marks: Marks | None = None
        self.content_length = 0  # as declared; 0 if it is not
        states: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self.content_length = int(value)
            elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name == b"traceparent":
                self.trace = continued(value)
            elif name == b"tracestate":
                states.append(value)
        if states and self.trace is not None:
            self.trace = self.trace._replace(state=b",".join(states))
        if not self.request_id:
            self.request_id = f"{getrandbits(128):032x}"  # nosec B311 # a name, not a secret
