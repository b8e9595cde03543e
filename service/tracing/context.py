"""Reads and makes the ids of a trace, and reads `tracestate`, as W3C Trace Context (version 00) defines them."""

import re
from random import getrandbits, random
from typing import Final, NamedTuple

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 1
# A member of `tracestate`: its key, with `tenant@system` as the other form, and its value, which ends in no space.
_MEMBER = re.compile(
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})="
    r"([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MOST_MEMBERS: Final = 32


class TraceContext(NamedTuple):
    """The trace of one request, in lower-case hexadecimal: `parent_id` is the caller's span, empty without one, and
    `span_id` this request's. `state` is the caller's `tracestate` as it arrived.
    """

    trace_id: str
    parent_id: str
    span_id: str
    flags: str
    state: bytes = b""

    @property
    def sampled(self) -> bool:
        return bool(int(self.flags, 16) & _SAMPLED)

    def traceparent(self) -> bytes:
        """Return the header of the answer, which names this request's span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()


def continued(traceparent: bytes) -> TraceContext | None:
    """Return the caller's trace with a new span; None if the header is not W3C version 00."""
    parts = _TRACEPARENT.fullmatch(traceparent)
    if parts is None or not any(parts[1].strip(b"0")) or not any(parts[2].strip(b"0")):
        return None
    return TraceContext(parts[1].decode(), parts[2].decode(), _span_id(), parts[3].decode())


def state_members(tracestate: bytes) -> list[tuple[str, str]]:
    """Return the keys and values of `tracestate`, whose headers are joined by commas, in their order.

    Returns none if a member is malformed, a key occurs twice, or there are more than 32: a state is passed on whole or
    not at all.
    """
    members: dict[str, str] = {}
    for text in tracestate.decode("latin-1").split(","):
        # Empty members are allowed.
        if not text.strip(" \t"):
            continue
        member = _MEMBER.fullmatch(text.strip(" \t"))
        if member is None or member[1] in members or len(members) == _MOST_MEMBERS:
            return []
        members[member[1]] = member[2]
    return list(members.items())


def new_trace(share: float) -> TraceContext:
    """Return a new trace, which is sampled with the probability `share`."""
    trace_id = f"{getrandbits(128) or 1:032x}"  # nosec B311 # a name, not a secret
    return TraceContext(trace_id, "", _span_id(), "01" if random() < share else "00")  # nosec B311 # no secret


def _span_id() -> str:
    return f"{getrandbits(64) or 1:016x}"  # nosec B311 # a name, not a secret
