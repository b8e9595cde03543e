"""Tests callers that send slowly, endlessly or nonsense: they affect only their own connection."""

import contextlib
import gzip
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.sample.embedded_redis import EmbeddedRedis

BODY = b'{"user_id": "1", "candidates": ["1", "2"]}'
HEAD = b"POST /rank HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.fixture(scope="module")
def hurried(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """A service that waits for a request for half a second, and admits two requests at once."""
    folder = tmp_path_factory.mktemp("hurried")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    with kit.serving(folder, folder / "registry", redis_server.url, read_timeout_ms=500, max_inflight=2) as running:
        yield running


def connection(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=20)


def rest(caller: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    text = b""
    try:
        while part := caller.recv(65536):
            text += part
    except ConnectionResetError:  # closed with bytes of ours unread
        pass
    return text


def answer(caller: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and body of the one answer on a connection that ends with it."""
    head, _, body = rest(caller).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "begun", [b"G", HEAD[:-2], HEAD, HEAD + BODY[:5]], ids=["a letter", "half a head", "no body", "half a body"]
)
def test_a_request_that_never_ends_is_ended(hurried: Any, begun: bytes) -> None:
    with connection(hurried) as caller:
        caller.sendall(begun)
        status, problem = answer(caller)
        assert (status, problem["status"], problem["code"]) == (408, 408, "request_too_slow")
        assert "FUNNELRANK_READ_TIMEOUT_MS" in problem["detail"]


def test_a_connection_over_which_nothing_comes_is_closed(hurried: Any) -> None:
    with connection(hurried) as caller:
        assert rest(caller) == b""


def test_callers_that_never_end_their_bodies_hold_no_place(hurried: Any) -> None:
    """Two requests are admitted at once, and eight callers have sent only a head."""
    with contextlib.ExitStack() as callers:
        for _ in range(8):
            callers.enter_context(connection(hurried)).sendall(HEAD)
        for _ in range(10):
            assert hurried.rank(["1"]).status_code == 200
    assert "funnelrank_inflight_requests 0.0" in hurried.http.get("/metrics").text


def test_a_request_in_pieces_is_answered_and_so_is_the_next_on_its_connection(hurried: Any) -> None:
    with connection(hurried) as caller:
        for _ in range(3):
            for piece in (HEAD[:20], HEAD[20:], BODY[:7], BODY[7:]):
                caller.sendall(piece)
            text = b""
            while not text.endswith(b"}]}"):
                text += caller.recv(65536)
            assert text.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("line", [b"X-Long: " + b"x" * 300_000, b"X-Many: y\r\n" * 20_000, b"GET /" + b"x" * 300_000])
def test_a_head_without_an_end_is_refused(hurried: Any, line: bytes) -> None:
    with connection(hurried) as caller:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            caller.sendall(line if line.startswith(b"GET") else b"GET /livez HTTP/1.1\r\n" + line)
        head = rest(caller)
        assert not head or b" 431 " in head.split(b"\r\n")[0]
    assert hurried.http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /rank HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    ],
    ids=["TLS", "version", "zeros", "two lengths", "negative", "unequal lengths", "chunk size"],
)
def test_what_is_not_http_or_has_two_meanings_is_refused(hurried: Any, text: bytes) -> None:
    with connection(hurried) as caller:
        caller.sendall(text)
        assert rest(caller).startswith(b"HTTP/1.1 4")


def test_a_chunked_body_is_a_body_and_is_bounded_too(hurried: Any) -> None:
    assert hurried.http.post("/rank", content=iter([BODY[:9], BODY[9:]])).status_code == 200
    assert hurried.http.post("/rank", content=iter([b"x" * 65536] * 50)).json()["code"] == "body_too_large"


def test_a_compressed_body_is_not_unpacked(hurried: Any) -> None:
    answered = hurried.http.post(
        "/rank", content=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"}
    )
    assert (answered.status_code, answered.json()["code"]) == (400, "malformed_json")


ODD: list[tuple[bytes, int]] = [
    (b'"context": {"tab": ' + b"[" * 210 + b"]" * 210 + b"}", 400),
    (b'"context": {"tab": ' + b"[" * 50 + b"]" * 50 + b"}", 422),
    (b'"top_k": ' + b"9" * 1_000_000, 400),
    (b'"timestamp": ' + b"9" * 4000, 422),
    (b'"context": {"tab": ' + b"9" * 4000 + b"}", 422),
    (b'"context": {"hour": 1e400}', 422),
    (b'"context": {"hour": -Infinity}', 422),
    (b'"context": {"tab": "\\ud83d"}', 400),
    (b'"context": {"\\udfff": 1}', 400),
    (b'"context": {"hour": 0.' + b"1" * 1_000_000 + b"}", 200),
    (b'"user_id": "2"', 422),
]


@pytest.mark.parametrize(("member", "status"), ODD, ids=range(len(ODD)))
def test_numbers_nesting_and_characters_have_bounds(hurried: Any, member: bytes, status: int) -> None:
    """Of two members with one name, the last counts, as in nearly all JSON parsers."""
    assert hurried.http.post("/rank", content=BODY[:-1] + b", " + member + b"}").status_code == status


MANY: list[tuple[str, str, Any]] = [
    ("POST", "/rank", {"user_id": "1", "candidates": [1] * 900_000}),
    ("POST", "/rank", {"user_id": "1", "candidates": [1] * 90_000}),
    ("POST", "/rank", {"user_id": "1", "candidates": [{}] * 500_000}),
    ("POST", "/rank", {"user_id": "1", "candidates": [str(i) for i in range(150_000)]}),
    ("POST", "/rank", {"user_id": "1", "candidates": ["1"]} | {f"k{i}": 1 for i in range(130_000)}),
    (
        "POST",
        "/rank",
        {"user_id": "1", "candidates": ["1"], "fusion": {"weights": {f"k{i}": "x" for i in range(100_000)}}},
    ),
    ("POST", "/rank", {"user_id": "1", "candidates": ["1"], "context": {f"k{i}": 1 for i in range(130_000)}}),
    (
        "POST",
        "/rank",
        {"user_id": "1", "candidates": [{"item_id": "1", "features": {f"f{i}": 1 for i in range(130_000)}}]},
    ),
    ("POST", "/events", {"events": [{}] * 500_000}),
    ("POST", "/events", {"events": [{f"x{i}": 1 for i in range(100)} for _ in range(1000)]}),
    (
        "PUT",
        "/features/users",
        {"users": [{"user_id": str(j), "features": {f"f{i}": 1 for i in range(100)}} for j in range(1000)]},
    ),
    ("PUT", "/features/items", {"items": [[]] * 500_000}),
    ("PUT", "/fusion", {"profiles": {f"p{i}": {} for i in range(20_000)}}),
]


@pytest.mark.parametrize(("method", "path", "body"), MANY, ids=range(len(MANY)))
def test_a_body_full_of_faults_is_refused_before_it_costs_seconds(
    hurried: Any, method: str, path: str, body: Any
) -> None:
    """The service stops checking after a few faults; comparing all entries with each other took minutes."""
    before = cpu_seconds(hurried)
    answered = hurried.http.request(method, path, json=body, headers={"Authorization": "Bearer secret"})
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid_request")
    assert len(answered.content) < 10_000
    assert cpu_seconds(hurried) - before < 5


def cpu_seconds(server: Any) -> float:
    """The CPU time of the one worker, which does not depend on other load of the machine."""
    fields = (
        Path(f"/proc/{server.http.get('/models').json()['worker']['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/models/..%2f..%2fetc%2fpasswd",
        "/docs/../models/x",
        "//etc/passwd",
    ],
)
def test_no_path_of_a_request_is_a_path_of_the_file_system(hurried: Any, path: str) -> None:
    with connection(hurried) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        assert answer(caller)[0] == 404


@pytest.mark.parametrize("version", ["..", ".", "../1", "1/../../x", "/etc/passwd", "1\x00", "1\n", "", "a" * 65])
def test_no_name_of_a_version_leaves_the_registry(hurried: Any, version: str) -> None:
    for target in ({"name": "synthetic", "version": version}, {"name": version, "version": "1"}):
        assert hurried.put("/models/rollout", {"stable": target}).status_code == 422


@pytest.mark.parametrize("sent", ["a" * 129, "with space", "é", "a\tb", "", "汉字", "\x80"])
def test_a_request_id_that_could_break_a_log_or_a_header_is_replaced(hurried: Any, sent: str) -> None:
    echoed = hurried.http.get("/livez", headers={"X-Request-Id": sent.encode()}).headers["x-request-id"]
    assert len(echoed) == 32 and echoed.isascii() and echoed.isalnum()


def test_nobody_was_answered_with_an_error_of_ours(hurried: Any) -> None:
    assert "request failed" not in Path(hurried.log).read_text()
    assert "Traceback" not in Path(hurried.log).read_text()


@pytest.mark.parametrize("sent_before", [0, 40])
def test_a_request_that_is_on_its_way_when_the_service_stops_is_answered(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, sent_before: int
) -> None:
    body = b'{"user_id": "1", "candidates": ["1"]}'
    request = b"POST /rank HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with (
        kit.serving(tmp_path, registry, redis_server.url, drain_ms=0) as server,
        connection(server) as other,
        connection(server) as caller,
    ):
        other.sendall(request[:40])  # so that the service waits for somebody
        caller.sendall(request[:sent_before])
        time.sleep(0.1)
        server.process.terminate()
        kit.wait_until(lambda: "Shutting down" in server.log_lines)
        caller.sendall(request[sent_before:])
        answer = b""
        while part := caller.recv(1 << 16):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        other.sendall(request[40:])
        assert other.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert server.process.wait(timeout=20) == 0
