"""Tests details of HTTP: HEAD and OPTIONS, the docs page, Host and Sec-Fetch-Site, long names in answers."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from service.sample.embedded_redis import EmbeddedRedis

BODY = {"stable": {"name": "synthetic", "version": "1"}}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_health_routes_answer_head_and_options(server: Any, path: str) -> None:
    head = server.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    options = server.http.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    refused = server.http.delete(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_a_head_of_readiness_fails_as_its_get_does(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    with kit.serving(tmp_path, registry, "redis://127.0.0.1:1", wait_for="/livez") as server:
        kit.wait_until(lambda: server.http.get("/readyz").status_code == 503)
        assert server.http.head("/readyz").status_code == 503


def test_the_docs_page_needs_nothing_from_outside(server: Any) -> None:
    answer = server.http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://|//[a-z0-9.-]+/|@import|<link|<img|src=", answer.text)
    assert 'fetch("openapi.json")' in answer.text
    assert '<html lang="en">' in answer.text
    assert len(answer.content) < 20_000


@pytest.fixture
def tokenless(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    with kit.serving(tmp_path, registry, redis_server.url, admin_token="") as server:
        yield server


def put(server: Any, host: str, *more: str) -> int:
    """The status of an operator's call with exactly these headers."""
    port = int(server.url.rsplit(":", 1)[1])
    body = json.dumps(BODY)
    head = [f"PUT /models/rollout HTTP/1.1\r\nHost: {host}", *more, f"Content-Length: {len(body)}", "Connection: close"]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        caller.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
        answer = b""
        while part := caller.recv(65536):
            answer += part
    return int(answer.split(b" ", 2)[1])


def test_the_loopback_rule_reads_host_strictly_and_believes_sec_fetch_site(tokenless: Any) -> None:
    for host in ("127.0.0.1", "127.0.0.1:80", "localhost:8000", "[::1]:80", "[::1]", "127.9.9.9"):
        assert put(tokenless, host) == 200, host
    for host in (
        "evil@127.0.0.1",
        "127.0.0.1/evil",
        "127.0.0.1#x",
        "127.0.0.1?x",
        "127.0.0.1:80:80",
        "127.0.0.1.evil.com",
        "evil.com",
        "localhost.",
        "[::1",
        "",
    ):
        assert put(tokenless, host) == 403, host
    for site, status in (("none", 200), ("same-origin", 200), ("cross-site", 403), ("same-site", 403), ("x", 403)):
        assert put(tokenless, "127.0.0.1", f"Sec-Fetch-Site: {site}") == status, site


def test_another_sites_page_may_not_operate_even_with_the_token(server: Any) -> None:
    headers = {"Authorization": "Bearer secret", "Sec-Fetch-Site": "cross-site"}
    answer = server.http.put("/models/rollout", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert server.http.get("/models", headers=headers).status_code == 200


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    "more",
    [
        {"scene": LONG},
        {"context": {LONG: 1}},
        {"fusion": {"weights": {LONG: 1}}},
        {"candidates": [{"item_id": "1", "features": {LONG: 1}}]},
        {"candidates": ["1", LONG]},
        {LONG: 1},
        {"request_id": LONG},
    ],
    ids=range(7),
)
def test_long_names_are_not_sent_back(server: Any, more: dict[str, Any]) -> None:
    answer = server.http.post("/rank", json={"user_id": "1", "candidates": ["1"]} | more)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(answer.content) < 6000
