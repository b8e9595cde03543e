"""Tests the item cache over HTTP: every worker uses a changed row, and the metrics count."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from features.layouts import Layouts
from service.store.redis.keys import item_key


def packed(layouts: Layouts, price: float) -> bytes:
    return layouts.item.pack({"tag": "a", "price": price})


@pytest.fixture
def stocked(server: Any, store: redis.Redis, layouts: Layouts) -> redis.Redis:
    store.set(item_key(layouts.fingerprint, "1"), packed(layouts, 1))
    return store


def test_a_changed_item_changes_the_next_ranking_on_every_worker(server: Any, stocked: redis.Redis) -> None:
    def scores() -> set[float]:
        with ThreadPoolExecutor(4) as pool:
            return set(pool.map(lambda _: float(server.rank(["1"]).json()["ranking"][0]["score"]), range(20)))

    seen: set[float] = set()
    for price in (5.0, 500.0, 50_000.0):
        assert (
            server.put("/features/items", {"items": [{"item_id": "1", "features": {"price": price}}]}).status_code
            == 200
        )
        now = scores()
        assert len(now) == 1
        assert not now & seen
        seen |= now


def test_hits_misses_and_invalidations_are_metrics(
    server: Any, stocked: redis.Redis, kit: SimpleNamespace, tmp_path: Path
) -> None:
    def count(name: str) -> float:
        lines = server.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(f"funnelrank_item_cache_{name}"))

    before = {name: count(name) for name in ("hits_total", "misses_total", "invalidations_total")}
    for _ in range(20):
        server.rank(["1", "2", "3"])
    server.put("/features/items", {"items": [{"item_id": "1", "features": {"price": 3}}]})
    server.rank(["1"])
    for name, was in before.items():
        kit.wait_until(lambda name=name, was=was: count(name) > was)
    assert count("bytes") > 0
