"""Cuts the bytes of a connection into pieces, so that the parser never receives more than one request at once.

The parser reports every request in the bytes that it gets, and cannot be stopped between two. The end of a head is
visible in the bytes, and the head says where the body ends. Only the end of a chunked body is not visible: such a body
is passed on in small pieces, and a piece may contain the beginning of a few requests.
"""

import re
from typing import Any

import httptools

from service.api.problems import HeadTooLarge, HttpError, MalformedHttp, UnknownTransferCoding

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 200
_BODY_PIECE = 65_536
_CHUNKED_PIECE = 128
_HEAD_END = b"\r\n\r\n"
_EMPTY_LINES = re.compile(rb"[\r\n]*")
FRAMING_HEADERS = (b"content-length", b"transfer-encoding", b"host")  # those that `Framing.take_header` reads
HEAD_TOO_LARGE = HeadTooLarge(
    f"the request line and headers, or the trailers, have more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} lines"
)
_VERSIONS = ("1.0", "1.1")


class Framing:
    """The parse state of the request that is arriving. It starts in the head, as it does after each request."""

    def __init__(self) -> None:
        self.in_head = True
        self._is_between = True  # no request has begun since the last one was complete
        self.length_is_known = False  # the head is complete, and no chunked body follows
        self.head_bytes = 0
        self._left: int | None = 0  # bytes of the body still to come; None for a chunked body
        self._overhead = 0  # bytes of a chunked body since the last that belong to its content
        self._hosts = 0
        self._coding = b""  # all transfer codings

    def has_body(self) -> bool:
        return self._left != 0

    def begin(self) -> None:
        """Start a request."""
        self.in_head = True
        self._is_between = False
        self.length_is_known = False
        self.head_bytes = 0
        self._left = 0
        self._hosts = 0
        self._coding = b""

    def take_header(self, name: bytes, value: bytes) -> bytes:
        """Read one of `FRAMING_HEADERS`, `name` in lower case. Returns the value to use.

        The parser refuses a request with both Content-Length and Transfer-Encoding.
        """
        if name == b"host":
            self._hosts += 1
            return value
        if name == b"transfer-encoding":
            self._left = None
            self._coding = b", ".join(filter(None, (self._coding, value.strip().lower())))
            return value
        # The parser accepts any number of leading zeros, but Python reads no integer of more than 4300 digits.
        value = value.lstrip(b"0") or b"0"
        self._left = int(value)
        return value

    def refusal(self, version: str) -> HttpError | None:
        """Return why a complete head cannot be answered; None if it can (RFC 9112: 2.3, 3.2, 6.1)."""
        is_known = self._coding in (b"", b"chunked")
        if version == "1.1" and self._hosts == 1 and is_known:  # the usual case
            return None
        if version not in _VERSIONS:
            return MalformedHttp(f"HTTP/{version} is not served; send HTTP/1.1")
        if self._hosts > 1:
            return MalformedHttp(f"the request has {self._hosts} Host headers, one is needed")
        if version == "1.1" and not self._hosts:
            return MalformedHttp("the request has no Host header, which HTTP/1.1 requires")
        # A body whose end was understood in two ways could hide another request.
        if version == "1.0" and self._left is None:
            return MalformedHttp("an HTTP/1.0 request has no Transfer-Encoding")
        if is_known:
            return None
        message = f"Transfer-Encoding is '{self._coding.decode('latin-1')}', and only 'chunked' is implemented"
        if self._coding.endswith(b"chunked"):
            return UnknownTransferCoding(message)
        return MalformedHttp(message)  # nothing says where the body ends

    def complete_head(self) -> None:
        """End the head."""
        self._overhead = 0
        self.length_is_known = self._left is not None
        self.in_head = self._left == 0

    def take_body(self, length: int) -> None:
        """Count `length` bytes of content."""
        if self._left is None:
            self._overhead = 0
        else:
            self._left -= length

    def end(self) -> None:
        """End the request."""
        self.in_head = True
        self._is_between = True
        self.length_is_known = False
        self._left = 0

    def skip_empty_lines(self, data: bytes, start: int) -> int:
        """Return the offset at which a request begins: empty lines before it are ignored (RFC 9112, 2.2)."""
        if data[start] not in b"\r\n":
            return start
        lines = _EMPTY_LINES.match(data, start)
        return lines.end() if lines else start

    def end_of_piece(self, data: bytes, start: int) -> int:
        """Return the end of the part of `data` that may be passed to the parser at once."""
        if self.in_head:
            end = data.find(_HEAD_END, start)
            end = len(data) if end < 0 else end + len(_HEAD_END)
            # A head that is still incomplete at the limit is too long, however much of it arrived at once.
            return min(end, start + MAX_HEAD_BYTES - (0 if self._is_between else self.head_bytes))
        piece = _CHUNKED_PIECE if self._left is None else min(self._left, _BODY_PIECE)
        return min(len(data), start + piece)

    def count(self, length: int, *, was_in_head: bool) -> bool:
        """Count parsed bytes; return False if a head, or trailers or chunk extensions, are too long."""
        if was_in_head:
            self.head_bytes += length
            return not self.in_head or self._is_between or self.head_bytes < MAX_HEAD_BYTES
        if self._left is None:
            self._overhead += length
        return self._overhead <= MAX_HEAD_BYTES


def new_parser(connection: Any) -> httptools.HttpRequestParser:
    """Create a parser as uvicorn does: it accepts bytes after a request that asks to close the connection."""
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def error_of(error: httptools.HttpParserError) -> HttpError:
    """Return the answer to bytes that the parser or one of its callbacks does not accept."""
    if isinstance(error.__context__, HttpError):  # raised by a callback
        return error.__context__
    if isinstance(error, httptools.HttpParserCallbackError):
        return MalformedHttp("the target of the request cannot be read")
    return MalformedHttp(f"the bytes are not a request of HTTP/1.1: {error}")
