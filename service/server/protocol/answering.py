"""Writes a complete answer at once. uvicorn writes the head and the body of an answer in two steps."""

from collections.abc import Sequence

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# Headers that change how uvicorn continues after the answer.
_SPECIAL = (b"connection", b"transfer-encoding")


def write_answer(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
    """Write an answer with its Content-Length, `headers` in lower case, to a connection that stays open.

    `send` is the one that the caller was given: if it is not the server's, something in between adds to answers.
    Returns False, and writes nothing, if the answer must be sent in the usual way, which also reports what is wrong.
    """
    # The request is taken from `send`. If the request's scope held it, the two would hold each other, and the memory of
    # a request would wait for the garbage collector instead of serving the next request.
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or send != cycle.send:
        return False
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or cycle.access_log:
        return False
    if not cycle.keep_alive or cycle.scope["method"] == "HEAD":
        return False
    # Leave headers that change what follows the answer, and a wrong length, to uvicorn.
    values = dict(headers)
    if not values.keys().isdisjoint(_SPECIAL) or values.get(b"content-length") != b"%d" % len(body):
        return False
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    head = b"%b%b\r\n" % (STATUS_LINE[status], b"".join(lines))
    # A line break inside a header would begin another header.
    if head.count(b"\r") + head.count(b"\n") != 2 * len(lines) + 4:
        return False
    # Note that the answer is complete, as uvicorn does.
    cycle.response_started = True
    cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(head + body)
    cycle.message_event.set()
    cycle.on_response()
    return True
