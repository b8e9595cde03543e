"""Raw sockets for tests of HTTP: requests cut anywhere, answers counted."""

import contextlib
import re
import socket
from typing import Any

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def connect(server: Any, timeout: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=timeout)


def request(body: bytes, path: str = "/rank", method: str = "POST", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: here\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunked(body: bytes, headers: str = "", trailers: bytes = b"") -> bytes:
    head = f"POST /rank HTTP/1.1\r\nHost: here\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers)


def read_all(caller: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    text = b""
    with contextlib.suppress(ConnectionResetError):  # closed with bytes of ours unread
        while part := caller.recv(1 << 16):
            text += part
    return text


def statuses(text: bytes) -> list[int]:
    return [int(status) for status in _STATUS.findall(text)]


def read_answers(caller: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of the next answers; fewer if the connection ends earlier."""
    text = b""
    answers: list[tuple[int, bytes]] = []
    while len(answers) < count:
        head, separator, rest = text.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if separator and length is not None and len(rest) >= int(length[1]):
            answers.append((statuses(head)[0], rest[: int(length[1])]))
            text = rest[int(length[1]) :]
            continue
        part = caller.recv(1 << 16)
        if not part:
            break
        text += part
    return answers
