"""Tests requests that two servers could read in two ways: each is answered with a problem, and its connection ends."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from raw_http import connect, read_all, statuses

from service.sample.embedded_redis import EmbeddedRedis

BODY = b'{"user_id": "1", "candidates": ["1", "2"]}'
SIZE = len(BODY)
LENGTH = b"Content-Length: %d\r\n" % SIZE
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)
NEXT = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"  # must never be answered after a head with two meanings


def plain(headers: bytes = b"Host: here\r\n", target: bytes = b"/rank", version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\n%b%b\r\n%b" % (target, version, headers, LENGTH, BODY)


def sized(length: bytes) -> bytes:
    return b"POST /rank HTTP/1.1\r\nHost: here\r\n%b\r\n%b" % (length, BODY)


def coded(headers: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /rank HTTP/%b\r\nHost: here\r\n%b\r\n%b" % (version, headers, CHUNKS)


def chunks(text: bytes) -> bytes:
    return b"POST /rank HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n" + text


HOST = b"Host: here\r\n"
OFFER = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED: dict[str, tuple[bytes, int]] = {
    # Host: RFC 9112, section 3.2
    "no Host": (plain(b""), 400),
    "no Host, absolute form": (plain(b"", b"http://here/rank"), 400),
    "no Host, an upgrade offered": (plain(OFFER), 400),
    "no Host, Expect": (plain(b"Expect: 100-continue\r\n"), 400),
    "two Hosts": (plain(HOST + b"Host: there\r\n"), 400),
    "the same Host twice": (plain(HOST + HOST), 400),
    "two Hosts in HTTP/1.0": (plain(HOST + HOST, version=b"1.0"), 400),
    # Transfer codings: section 6.1
    "gzip, chunked": (coded(b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    "gzip, chunked in two lines": (coded(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), 501),
    "gzip, chunked, an upgrade offered": (coded(OFFER + b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    "an empty coding": (coded(b"Transfer-Encoding: , chunked\r\n"), 501),
    "gzip alone": (coded(b"Transfer-Encoding: gzip\r\n"), 400),
    "identity": (coded(b"Transfer-Encoding: identity\r\n"), 400),
    "xchunked": (coded(b"Transfer-Encoding: xchunked\r\n"), 501),
    "chunked, gzip": (coded(b"Transfer-Encoding: chunked, gzip\r\n"), 400),
    "chunked twice": (coded(CHUNKED + CHUNKED), 400),
    "vertical tab before chunked": (coded(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    "chunked in HTTP/1.0": (coded(CHUNKED, version=b"1.0"), 400),
    # Lengths: sections 6.2 and 6.3
    "length before coding": (coded(LENGTH + CHUNKED), 400),
    "coding before length": (coded(CHUNKED + LENGTH), 400),
    "two lengths": (sized(LENGTH + b"Content-Length: 3\r\n"), 400),
    "the same length twice": (sized(LENGTH + LENGTH), 400),
    "a list of lengths": (sized(b"Content-Length: %d, %d\r\n" % (SIZE, SIZE)), 400),
    "a length with a sign": (sized(b"Content-Length: +%d\r\n" % SIZE), 400),
    "a hexadecimal length": (sized(b"Content-Length: 0x2a\r\n"), 400),
    "a length with an underscore": (sized(b"Content-Length: 4_2\r\n"), 400),
    "a length beyond 64 bits": (sized(b"Content-Length: %d\r\n" % (1 << 70)), 400),
    # Header lines: sections 2.2, 5.1 and 5.2
    "a folded line": (plain(HOST + b"X-A: 1\r\n 2\r\n"), 400),
    "a folded coding": (coded(b"Transfer-Encoding:\r\n chunked\r\n"), 400),
    "a space before the first header": (plain(b" X-A: 1\r\n" + HOST), 400),
    "bare LF": (plain().replace(b"\r\n", b"\n"), 400),
    "bare LF after one header": (plain(b"Host: here\n"), 400),
    "bare CR": (plain(b"Host: here\rX-A: 1\r\n"), 400),
    "a space before the colon": (sized(b"Content-Length : %d\r\n" % SIZE), 400),
    "a tab before the colon": (plain(HOST + b"X-A\t: 1\r\n"), 400),
    "no name": (plain(HOST + b": 1\r\n"), 400),
    "no colon": (plain(HOST + b"abc\r\n"), 400),
    "NUL in a value": (plain(HOST + b"X-A: a\x00b\r\n"), 400),
    # Request lines: sections 2.3 and 3
    "HTTP/2.0": (plain(version=b"2.0"), 400),
    "HTTP/1.2": (plain(version=b"1.2"), 400),
    "no version": (b"GET /livez\r\n\r\n", 400),
    "authority form": (plain(target=b"here:80"), 400),
    "no slash": (plain(target=b"rank"), 400),
    "a space in the target": (plain(target=b"/ra nk"), 400),
    # Chunks: section 7.1
    "LF in a chunk": (chunks(CHUNKS.replace(b"\r\n", b"\n")), 400),
    "a size beyond 64 bits": (chunks(b"1%016x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)), 400),
    "a size with 0x": (chunks(b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)), 400),
    "a negative size": (chunks(b"-1\r\n%b\r\n0\r\n\r\n" % BODY), 400),
    "a space after a size": (chunks(b"%x \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)), 400),
    "a chunk without its end": (chunks(b"%x\r\n%bXX0\r\n\r\n" % (SIZE, BODY)), 400),
    "NUL in an extension": (chunks(b"%x;\x00=b\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)), 400),
    "a size with 100,000 zeros": (chunks(b"0" * 100_000 + CHUNKS), 431),
}
ANSWERED: dict[str, bytes] = {
    "an empty Host": plain(b"Host:\r\n"),
    "HTTP/1.0 without Host": plain(b"", version=b"1.0"),
    "absolute form": plain(target=b"http://here/rank"),
    "Chunked": coded(b"Transfer-Encoding: Chunked\r\n"),
    "a length with zeros and a space": sized(b"Content-Length: 000%d \r\n" % SIZE),
    "chunk extensions": chunks(b'%x;a=b;c="d"\r\n%b\r\n0\r\n\r\n' % (SIZE, BODY)),
    "a size with 40 zeros": chunks(b"0" * 40 + CHUNKS),
}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("service")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", redis_server.url) as running:
        yield running


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_with_two_meanings_ends_its_connection_with_a_problem(service: Any, case: str) -> None:
    request, status = REFUSED[case]
    with connect(service) as caller:
        caller.sendall(request + NEXT)
        text = read_all(caller)
    head, _, body = text.partition(b"\r\n\r\n")
    assert statuses(text) == [status]
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head.lower()
    codes = {400: "malformed_http", 431: "head_too_large", 501: "unknown_transfer_coding"}
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, codes[status])


@pytest.mark.parametrize("case", ANSWERED)
def test_a_request_with_one_meaning_is_answered(service: Any, case: str) -> None:
    with connect(service) as caller:
        caller.sendall(ANSWERED[case].replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        assert statuses(read_all(caller)) == [200]


def test_the_requests_before_a_refused_one_get_their_answers(service: Any) -> None:
    with connect(service) as caller:
        caller.sendall(NEXT + plain() + b"GET /livez HTTP/1.1\r\n\r\n" + NEXT)
        assert statuses(read_all(caller)) == [200, 200, 400]


def test_a_refused_request_says_what_is_wrong(service: Any) -> None:
    details = {
        plain(b""): "the request has no Host header, which HTTP/1.1 requires",
        plain(HOST + HOST): "the request has 2 Host headers, one is needed",
        coded(b"Transfer-Encoding: gzip, chunked\r\n"): "Transfer-Encoding is 'gzip, chunked', and only 'chunked' is "
        "implemented",
        plain(version=b"2.0"): "HTTP/2.0 is not served; send HTTP/1.1",
    }
    for request, detail in details.items():
        with connect(service) as caller:
            caller.sendall(request)
            assert json.loads(read_all(caller).partition(b"\r\n\r\n")[2])["detail"] == detail
