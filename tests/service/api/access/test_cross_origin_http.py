"""Tests CORS over HTTP: listed origins may rank, look and report events; nobody else may, and none may operate."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis

from service.api.application import ROUTERS
from service.callers.document import CallerRole, add_caller
from service.sample.embedded_redis import EmbeddedRedis
from service.settings import Settings, SettingsError

SHOP = "https://shop.example"
RANK = {"user_id": "712", "candidates": ["1"], "context": {"tab": None, "hour": None}}
OPEN = {
    "/rank",
    "/events",
    "/impressions",
    "/fusion",
    "/rules",
    "/models",
    "/models/{name}/{version}",
    "/quality",
    "/stats",
    "/livez",
    "/readyz",
    "/metrics",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis) -> Iterator[Any]:
    """A service that lists two origins."""
    folder = tmp_path_factory.mktemp("shop")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    origins = f"{SHOP}, http://localhost:3000"
    with kit.serving(folder, folder / "registry", redis_server.url, cors_origins=origins) as running:
        yield running


def preflight(server: Any, path: str, method: str, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    answer: httpx.Response = server.http.options(path, headers=headers)
    return answer


def allows(answer: httpx.Response) -> bool:
    return any(name.startswith("access-control-") for name in answer.headers)


def test_a_listed_origin_may_rank_and_read_the_answer(shop: Any) -> None:
    for origin in (SHOP, "http://localhost:3000"):
        asked = preflight(shop, "/rank", "POST", origin)
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers["access-control-allow-origin"] == origin
        assert asked.headers["access-control-allow-methods"] == "POST"
        assert "authorization" in asked.headers["access-control-allow-headers"]
        answer = shop.http.post("/rank", json=RANK, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"
        refused = shop.http.post("/rank", json={}, headers={"Origin": origin})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, origin)


def test_every_route_that_reads_or_reports_is_open_to_listed_origins_and_no_other(shop: Any) -> None:
    routes = {(method, route.path) for router in ROUTERS for route in router.routes for method in route.methods or ()}
    allowed = set()
    for method, path in {("POST", "/rank")} | routes:
        answer = preflight(shop, path, method, SHOP)
        if method in answer.headers.get("access-control-allow-methods", "").split(", "):
            allowed.add(path)
            assert method in ("GET", "HEAD", "OPTIONS") or path in ("/rank", "/events", "/impressions")
    assert allowed == OPEN


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://shop.example.evil.example",
        "https://shop.example:444",
        "http://shop.example",
        "https://SHOP.example",
        "https://shop.example/",
        "null",
        "*",
        "",
        "\u00e9",
        "x" * 60_000,
    ],
    ids=range(11),
)
def test_other_origins_get_nothing(shop: Any, origin: str) -> None:
    headers = {"Origin": origin.encode(), "Access-Control-Request-Method": b"POST"}
    asked = shop.http.options("/rank", headers=headers)
    assert (asked.status_code, allows(asked)) == (405, False)
    answer = shop.http.post("/rank", json=RANK, headers={"Origin": origin.encode()})
    assert (answer.status_code, allows(answer)) == (200, False)
    assert answer.headers["vary"] == "Origin"


def test_two_origins_are_none(shop: Any) -> None:
    answer = shop.http.get("/models", headers=[("Origin", SHOP), ("Origin", SHOP)])
    assert not allows(answer)


def test_operators_calls_never_take_another_origin(shop: Any) -> None:
    for method, path in (
        ("PUT", "/fusion"),
        ("PUT", "/models/rollout"),
        ("PUT", "/features/users"),
        ("GET", "/callers"),
    ):
        answer = preflight(shop, path, method, SHOP)
        assert method not in answer.headers.get("access-control-allow-methods", "")
        headers = {"Origin": SHOP, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer secret"}
        made = shop.http.request(method, path, json={}, headers=headers)
        assert (made.status_code, allows(made)) == (403, False)


def test_without_the_setting_no_origin_gets_anything(server: Any) -> None:
    asked = preflight(server, "/rank", "POST", SHOP)
    assert (asked.status_code, allows(asked)) == (405, False)
    answer = server.http.post("/rank", json=RANK, headers={"Origin": SHOP})
    assert (answer.status_code, allows(answer), "vary" in answer.headers) == (200, False, False)


def test_a_preflight_needs_no_key_and_a_page_reads_why_its_key_is_refused(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    key = add_caller(registry, "page", CallerRole.READ, 1, "test")
    with kit.serving(tmp_path, registry, redis_server.url, cors_origins=SHOP) as server:
        assert preflight(server, "/rank", "POST", SHOP).status_code == 204
        assert preflight(server, "/rank", "POST", "https://evil.example").status_code == 401
        headers = {"Origin": SHOP, "Authorization": f"Bearer {key}"}
        answers = [server.http.post("/rank", json=RANK, headers=headers) for _ in range(3)]
        assert answers[0].status_code == 200
        assert 429 in {answer.status_code for answer in answers}
        answers.append(server.http.post("/rank", json=RANK, headers={"Origin": SHOP}))
        assert answers[-1].status_code == 401
        assert all(answer.headers["access-control-allow-origin"] == SHOP for answer in answers)


@pytest.mark.parametrize(
    "value",
    ["*", "shop.example", "https://shop.example/", "https://Shop.example", "null", "https://a b", "https://a,x"],
)
def test_a_setting_that_is_no_origin_is_refused_by_name(value: str) -> None:
    with pytest.raises(SettingsError, match="FUNNELRANK_CORS_ORIGINS"):
        Settings.from_environment({"FUNNELRANK_CORS_ORIGINS": value})


def test_origins_are_separated_by_commas() -> None:
    settings = Settings.from_environment({"FUNNELRANK_CORS_ORIGINS": f" {SHOP} ,http://[::1]:3000,"})
    assert settings.cors_origins == (SHOP, "http://[::1]:3000")
