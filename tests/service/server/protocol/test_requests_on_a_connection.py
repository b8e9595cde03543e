"""Tests unusual requests on one connection: pipelines, offers to upgrade, trailers, incomplete requests."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from raw_http import chunked, connect, read_all, read_answers, request, statuses

from service.sample.embedded_redis import EmbeddedRedis

BODY = b'{"user_id": "1", "candidates": ["1", "2"]}'
OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("service")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", redis_server.url, read_timeout_ms=2000) as running:
        running.rank(["1"])
        yield running


def large(count: int = 1500) -> bytes:
    """A ranking with an answer of about 165 KB."""
    candidates = [f"{'x' * 100}-{number}" for number in range(count)]
    return request(json.dumps({"user_id": "1", "candidates": candidates, "top_k": 1}).encode())


def memory(server: Any) -> int:
    """The resident memory of the one worker, in bytes."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("cut", [1, 30, 60, 100])
def test_requests_behind_large_ones_are_answered_wherever_a_read_ends(service: Any, cut: int) -> None:
    """The first half of the third request's head arrives with the end of large bodies."""
    third = request(BODY)
    for _ in range(3):
        with connect(service) as caller:
            caller.sendall(large() + large() + third[:cut])
            time.sleep(0.1)
            caller.sendall(third[cut:])
            assert [status for status, _ in read_answers(caller, 3)] == [200, 200, 200]


@pytest.mark.parametrize("count", [2, 16, 17, 100, 1000])
def test_a_pipeline_is_answered_whole_and_in_order(service: Any, count: int) -> None:
    ranked = [request(b'{"user_id": "1", "candidates": ["i%d"]}' % number) for number in range(count)]
    with connect(service) as caller:
        sender = threading.Thread(target=caller.sendall, args=(b"".join(ranked),))
        sender.start()
        answers = read_answers(caller, count)
        sender.join()
    items = [json.loads(body)["ranking"][0]["item_id"] for _, body in answers]
    assert items == [f"i{number}" for number in range(count)]


def test_a_pipeline_of_every_kind_of_request_is_answered_however_it_is_cut(service: Any) -> None:
    kinds = [request(BODY), chunked(BODY), LIVEZ, request(BODY, headers=OFFER), b"\r\n\r\n", chunked(BODY, OFFER)]
    whole = b"".join([*kinds, request(b"", "/nowhere", "GET", OFFER), request(BODY)])
    for size in (1, 2, 3, 7, 50, 127, 128, 129, 1000, len(whole)):
        with connect(service) as caller:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(whole), size):
                caller.sendall(whole[start : start + size])
                if size > 3:
                    time.sleep(0.001)
            answers = [status for status, _ in read_answers(caller, 7)]
        assert answers == [200, 200, 200, 200, 200, 404, 200], size


@pytest.mark.parametrize("sent", [request(BODY, headers=OFFER), chunked(BODY, OFFER)], ids=["length", "chunked"])
def test_an_offer_to_upgrade_is_ignored(service: Any, sent: bytes) -> None:
    head = sent.index(b"\r\n\r\n") + 4
    for pieces in ([sent], [sent[:head], sent[head:]], [sent[: head - 1], sent[head - 1 :]], [sent[:20], sent[20:]]):
        with connect(service) as caller:
            for piece in pieces:
                caller.sendall(piece)
                time.sleep(0.02)
            caller.sendall(request(BODY))
            assert [status for status, _ in read_answers(caller, 2)] == [200, 200]
    assert "upgrade" not in service.log_lines.lower()
    assert "WebSocket" not in service.log_lines


def test_an_offer_to_upgrade_changes_nothing_about_a_body_with_two_meanings(service: Any) -> None:
    for framing in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: -5\r\n",
    ):
        with connect(service) as caller:
            caller.sendall(f"POST /rank HTTP/1.1\r\nHost: a\r\n{OFFER}{framing}\r\n0\r\n\r\n".encode() + LIVEZ)
            assert statuses(read_all(caller)) == [400], framing


def test_trailers_are_no_headers(service: Any) -> None:
    trailers = b"X-Request-Id: from-a-trailer\r\nAuthorization: Bearer secret\r\n"
    with connect(service) as caller:
        caller.sendall(chunked(BODY, trailers=trailers))
        text = caller.recv(1 << 16)
        assert statuses(text) == [200]
        assert b"from-a-trailer" not in text
        body = b'{"stable": {"name": "synthetic", "version": "1"}}'
        sent = chunked(body, trailers=trailers).replace(b"POST /rank", b"PUT /models/rollout")
        caller.sendall(sent)
        assert [status for status, _ in read_answers(caller, 1)] == [401]


@pytest.mark.parametrize(
    ("begun", "endless"),
    [(b"2\r\n{}\r\n0\r\n", b"a: b\r\n" * 40_000), (b"2\r\n{}\r\n0\r\nA: ", b"x" * 250_000), (b"2;a=", b"x" * 250_000)],
    ids=["trailers", "a trailer", "a chunk extension"],
)
def test_trailers_and_chunk_extensions_have_an_end(service: Any, begun: bytes, endless: bytes) -> None:
    before = memory(service)
    sent = 0
    with connect(service) as caller, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        caller.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + begun)
        while sent < 64 * MIB:
            caller.sendall(endless)
            sent += len(endless)
    assert sent < 16 * MIB, "the service reads on"
    assert memory(service) - before < 4 * MIB


def test_a_head_of_many_short_lines_is_refused(service: Any) -> None:
    with connect(service) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\n" + b"a:b\r\n" * 5000 + b"\r\n" + LIVEZ)
        assert statuses(read_all(caller)) == [431]


def test_a_pipeline_without_an_end_costs_no_memory(service: Any) -> None:
    """The caller reads its answers; the service reads requests only as fast as it answers them."""
    before = memory(service)
    sent = 0
    answered = 0
    with connect(service) as caller:
        caller.settimeout(0.01)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                sent += caller.send(LIVEZ * 10_000)
            with contextlib.suppress(TimeoutError):
                answered += caller.recv(MIB).count(b"HTTP/1.1 200")
    assert answered > 0
    assert memory(service) - before < 4 * MIB


def test_bodies_that_wait_for_their_turn_cost_no_memory(service: Any) -> None:
    """16 requests of 2 MB behind one whose answer is not read."""
    before = memory(service)
    body = json.dumps({"user_id": "1", "candidates": ["1"], "scene": "x" * 2_000_000}).encode()
    callers = []
    for _ in range(8):
        caller = connect(service)
        caller.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            caller.send(large(2000) + request(body) * 16)
        callers.append(caller)
    time.sleep(1)
    grown = memory(service) - before
    for caller in callers:
        caller.close()
    assert grown < 8 * 3 * MIB + 4 * MIB


@pytest.mark.parametrize("sent", [request(BODY), request(BODY) * 3, large() + request(BODY) * 20, LIVEZ * 100])
def test_a_caller_that_closes_its_half_gets_its_answers(service: Any, sent: bytes) -> None:
    with connect(service) as caller:
        caller.sendall(sent)
        caller.shutdown(socket.SHUT_WR)
        text = read_all(caller)
    assert statuses(text) == [200] * (sent.count(b"POST /rank") + sent.count(LIVEZ))


@pytest.mark.parametrize("begun", [b"", b"GET", request(BODY)[:-5]])
def test_a_caller_that_closes_its_half_within_a_request_is_left(service: Any, begun: bytes) -> None:
    with connect(service) as caller:
        caller.sendall(begun)
        caller.shutdown(socket.SHUT_WR)
        assert read_all(caller) == b""


@pytest.mark.parametrize(
    ("last", "status"),
    [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000, 431), (b"GET / HT", 408)],
    ids=["no HTTP", "a long head", "half a head"],
)
def test_a_bad_request_behind_good_ones_ends_the_connection_after_their_answers(
    service: Any, last: bytes, status: int
) -> None:
    with connect(service) as caller:
        caller.sendall(large() + request(BODY) * 3 + last)
        assert statuses(read_all(caller)) == [200, 200, 200, 200, status]


def test_a_body_that_is_longer_than_allowed_is_not_read_without_an_end(service: Any) -> None:
    sent = 0
    with connect(service) as caller, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        caller.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        while sent < 200 * MIB:
            caller.sendall(bytes(250_000))
            sent += 250_000
    assert sent < 32 * MIB


def test_nothing_of_this_was_a_fault_of_ours(service: Any) -> None:
    assert "Traceback" not in service.log_lines
    assert "request failed" not in service.log_lines
    service.rank(["1"])
    assert "funnelrank_inflight_requests 0.0" in service.http.get("/metrics").text
