"""Tests callers' keys over HTTP: roles, rates, rotation without a restart, last uses, and hostile keys."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import raw_http
import redis

from service.callers.document import CALLERS_FILE, CallerRole, add_caller, revoke, rotate_key
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import CALLER_USES

RANK = {"user_id": "712", "candidates": ["1"], "context": {"tab": None, "hour": None}}
EVENTS = {"events": [{"user_id": "712", "item_id": "1", "action": "click", "timestamp": 1_650_988_800_000}]}
USERS = {"users": [{"user_id": "712", "features": {}}]}


@pytest.fixture
def keys(registry: Path) -> dict[str, str]:
    """One key per role."""
    return {role.value: add_caller(registry, role.value, role, None, "test") for role in CallerRole}


@pytest.fixture
def running(
    tmp_path: Path,
    registry: Path,
    keys: dict[str, str],
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> Iterator[Any]:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        yield server


def call(server: Any, method: str, path: str, key: str | None = None, body: Any = None) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    answer: httpx.Response = server.http.request(method, path, json=body, headers=headers)
    return answer


def test_each_role_may_do_what_it_says_and_no_more(running: Any, keys: dict[str, str]) -> None:
    calls = [
        ("POST", "/rank", RANK, 1),
        ("GET", "/models", None, 1),
        ("GET", "/fusion", None, 1),
        ("POST", "/events", EVENTS, 2),
        ("PUT", "/features/users", USERS, 2),
        ("GET", "/callers", None, 3),
        ("PUT", "/models/rollout", {"stable": {"name": "synthetic", "version": "1"}}, 3),
    ]
    for method, path, body, level in calls:
        for place, role in enumerate(CallerRole, 1):
            answer = call(running, method, path, keys[role], body)
            assert (answer.status_code == 200) == (place >= level), (path, role, answer.text)
            if place < level:
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert call(running, method, path, "secret", body).status_code == 200, "the admin token goes on working"
        refused = call(running, method, path, None, body)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        wrong = call(running, method, path, "fr_wrong", body)
        assert (wrong.status_code, wrong.headers["content-type"]) == (401, "application/problem+json")
        assert wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/console/", "/console/console.js"):
        assert call(running, "GET", path).status_code == 200
    # What is not there needs a key too, so that nobody explores the service without one.
    assert call(running, "POST", "/nothing", keys["write"]).status_code == 403
    assert call(running, "DELETE", "/rank").status_code == 401


def test_a_page_of_another_site_may_not_operate_even_with_a_key(running: Any, keys: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {keys['operate']}", "Sec-Fetch-Site": "cross-site"}
    assert running.http.put("/fusion", json={}, headers=headers).status_code == 403
    assert running.http.get("/callers", headers=headers).status_code == 403


def test_keys_are_added_rotated_and_revoked_without_a_restart(
    running: Any, registry: Path, keys: dict[str, str], kit: SimpleNamespace
) -> None:
    def ranks(key: str) -> set[int]:
        """The statuses over several connections, so that both workers answer."""
        return {httpx.post(f"{running.url}/rank", json=RANK, headers=bearer(key)).status_code for _ in range(8)}

    added = add_caller(registry, "shop", CallerRole.READ, None, "test")
    kit.wait_until(lambda: ranks(added) == {200})
    rotated = rotate_key(registry, "shop", timedelta(hours=1), "test")
    kit.wait_until(lambda: ranks(rotated) == {200})
    assert ranks(added) == {200}
    newest = rotate_key(registry, "shop", timedelta(seconds=2), "test")
    kit.wait_until(lambda: ranks(added) | ranks(rotated) == {401})
    assert ranks(newest) == {200}
    revoke(registry, "shop", None, "test")
    kit.wait_until(lambda: ranks(newest) == {401})
    assert ranks(keys["read"]) == {200}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_broken_or_vanished_document_neither_opens_nor_closes_the_service(
    running: Any, registry: Path, keys: dict[str, str], kit: SimpleNamespace
) -> None:
    def problem() -> bool:
        return 'funnelrank_document_unreadable{document="callers"} 1.0' in running.http.get("/metrics").text

    held = (registry / CALLERS_FILE).read_bytes()
    (registry / CALLERS_FILE).write_text('{"revision": 9, "callers": [')
    kit.wait_until(problem)
    assert call(running, "POST", "/rank", None, RANK).status_code == 401
    assert call(running, "POST", "/rank", keys["read"], RANK).status_code == 200
    assert "callers.json" in call(running, "GET", "/callers", keys["operate"]).json()["problem"]
    (registry / CALLERS_FILE).write_bytes(held)
    kit.wait_until(lambda: not problem())
    for path in (registry / CALLERS_FILE, registry / f".{CALLERS_FILE}.last"):
        path.unlink()
    kit.wait_until(problem)
    assert call(running, "POST", "/rank", None, RANK).status_code == 401
    assert call(running, "POST", "/rank", keys["read"], RANK).status_code == 200


def test_the_last_use_of_each_key_is_told_over_all_workers_and_restarts(
    tmp_path: Path,
    registry: Path,
    keys: dict[str, str],
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    def last_used(server: Any) -> dict[str, str | None]:
        state = call(server, "GET", "/callers", "secret").json()
        return {caller["name"]: caller["keys"][0]["last_used"] for caller in state["callers"]}

    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        assert last_used(server) == {"read": None, "write": None, "operate": None}
        before = datetime.now(UTC)
        assert call(server, "POST", "/rank", keys["read"], RANK).status_code == 200
        kit.wait_until(lambda: last_used(server)["read"] is not None)
        used = last_used(server)["read"]
        assert before - timedelta(seconds=2) <= datetime.fromisoformat(str(used)) <= datetime.now(UTC)
        text = call(server, "GET", "/callers", "secret").text
        held = json.loads((registry / CALLERS_FILE).read_text())
        assert not any(key["sha256"] in text for caller in held["callers"] for key in caller["keys"])
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        assert last_used(server)["read"] == used
    assert store.hlen(CALLER_USES) == 1


def test_a_caller_beyond_its_rate_gets_429_and_the_others_do_not(
    running: Any, registry: Path, keys: dict[str, str], kit: SimpleNamespace
) -> None:
    slow = add_caller(registry, "slow", CallerRole.READ, 0.5, "test")
    kit.wait_until(lambda: "slow" in call(running, "GET", "/callers", "secret").text)
    answers = [call(running, "POST", "/rank", slow, RANK) for _ in range(10)]
    limited = [answer for answer in answers if answer.status_code == 429]
    # Each of two workers has a bucket of one request, which fills in four seconds.
    assert 8 <= len(limited) <= 9 + 1
    assert limited[0].json()["code"] == "rate_limited"
    assert 1 <= int(limited[0].headers["retry-after"]) <= 4
    assert call(running, "POST", "/rank", keys["read"], RANK).status_code == 200
    # A change of the document does not fill the bucket.
    add_caller(registry, "other", CallerRole.READ, None, "test")
    kit.wait_until(lambda: "other" in call(running, "GET", "/callers", "secret").text)
    assert 429 in {call(running, "POST", "/rank", slow, RANK).status_code for _ in range(3)}


HOSTILE = [
    b"",
    b"Authorization: \r\n",
    b"Authorization: Bearer\r\n",
    b"Authorization: Bearer \r\n",
    b"Authorization: Basic c2VjcmV0\r\n",
    b"Authorization: BearerKEY\r\n",
    b"Authorization: KEY\r\n",
    b"Authorization: Bearer " + b"x" * 60_000 + b"\r\n",
    b"Authorization: Bearer \xff\xfe\xc3\xa9\r\n",
    b"Authorization: Bearer KEY KEY\r\n",
    b"Authorization: Bearer KEYx\r\n",
    b"Authorization: Bearer key\r\n",
    b"Authorization: Bearer KEY\r\nAuthorization: Bearer x\r\n",
    b"X-Authorization: Bearer KEY\r\n",
    b"Cookie: Authorization=KEY\r\n",
]


def exchanged(server: Any, sent: bytes) -> bytes:
    with raw_http.connect(server) as caller:
        caller.sendall(sent)
        return raw_http.read_all(caller)


def test_odd_keys_are_refused_and_nothing_of_them_is_told(running: Any, keys: dict[str, str]) -> None:
    body = json.dumps(RANK).encode()
    for lines in HOSTILE:
        lower = lines.replace(b"Bearer key", b"Bearer " + keys["read"].lower().encode())
        sent = lower.replace(b"KEY", keys["read"].encode())
        end = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        head = b"POST /rank HTTP/1.1\r\nHost: x\r\n" + sent + end
        answer = exchanged(running, head + body)
        assert answer.startswith(b"HTTP/1.1 401 "), (lines[:60], answer[:200])
        assert keys["read"].encode() not in answer
        assert len(answer) < 1000
    good = b"POST /rank HTTP/1.1\r\nHost: x\r\nauthorization:   bearer   " + keys["read"].encode()
    head = good + b"  \r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    assert exchanged(running, head + body).startswith(b"HTTP/1.1 200 ")
    assert "request failed" not in running.log_lines
    assert keys["read"] not in running.log_lines


def test_a_refused_caller_costs_no_reading_of_its_body(running: Any) -> None:
    head = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
    with raw_http.connect(running) as caller:
        caller.sendall(head)
        assert [status for status, _ in raw_http.read_answers(caller, 1)] == [401]


def test_without_a_document_everything_is_as_before(server: Any) -> None:
    assert call(server, "POST", "/rank", None, RANK).status_code == 200
    assert call(server, "POST", "/rank", "any", RANK).status_code == 200
    assert call(server, "GET", "/callers").status_code == 401
    assert call(server, "GET", "/callers", "secret").json() == {"revision": 0, "callers": [], "problem": None}


def test_metrics_may_need_a_key(
    tmp_path: Path,
    registry: Path,
    keys: dict[str, str],
    kit: SimpleNamespace,
    redis_server: EmbeddedRedis,
    store: redis.Redis,
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, wait_for="/livez", metrics_need_key="true") as server:
        assert call(server, "GET", "/metrics").status_code == 401
        assert call(server, "GET", "/metrics", keys["read"]).status_code == 200


def test_a_start_with_a_broken_document_serves_nobody_but_the_admin(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    (registry / CALLERS_FILE).write_text("{")
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        assert call(server, "POST", "/rank", None, RANK).status_code == 401
        assert call(server, "POST", "/rank", "secret", RANK).status_code == 200
        (registry / CALLERS_FILE).unlink()
        time.sleep(0.3)
        assert call(server, "POST", "/rank", "secret", RANK).status_code == 200
