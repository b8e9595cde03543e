"""Tests heads at their limit, and lengths in an odd form."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from raw_http import connect, read_all

from service.sample.embedded_redis import EmbeddedRedis

BODY = b'{"user_id": "1", "candidates": ["1", "2"]}'


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("service")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", redis_server.url) as running:
        yield running


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("spare", [-1, 0, 1, 5000])
def test_a_head_is_as_long_as_the_limit_however_it_arrives(service: Any, spare: int, before: int) -> None:
    """A head may have 65,536 bytes; here it is sent at once, alone or after others of the greatest length."""
    head = b"GET /livez HTTP/1.1\r\nHost: here\r\n%bX-Long: %b\r\n\r\n"
    longest = head % (b"", b"x" * (65_536 - len(head % (b"", b""))))
    close = b"Connection: close\r\n"
    last = head % (close, b"x" * (65_536 + spare - len(head % (close, b""))))
    with connect(service) as caller:
        caller.sendall(longest * before + last)
        text = read_all(caller)
    assert text.count(b"HTTP/1.1 200 ") == before + (spare <= 0)
    assert text.count(b"HTTP/1.1 431 ") == (spare > 0)


@pytest.mark.parametrize("zeros", [3, 4300, 30_000])
def test_a_length_with_leading_zeros_is_a_length(service: Any, zeros: int) -> None:
    length = b"0" * zeros + b"%d" % len(BODY)
    with connect(service) as caller:
        caller.sendall(
            b"POST /rank HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: %b\r\n\r\n%b" % (length, BODY)
        )
        text = read_all(caller)
    assert text.startswith(b"HTTP/1.1 200")
    assert text.count(b"HTTP/1.1 ") == 1
