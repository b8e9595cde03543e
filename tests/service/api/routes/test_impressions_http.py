"""Tests `/impressions`, and the log of `/events`: each is recorded once, on any worker, with and without Redis."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pytest
import redis

from service.sample.embedded_redis import EmbeddedRedis

NOW = int(time.time() * 1000)


def seen(request_id: str, *items: str, at: int = NOW, **more: Any) -> dict[str, Any]:
    shown = [{"item_id": item, "position": place} for place, item in enumerate(items, 1)]
    return {"request_id": request_id, "items": shown, "timestamp": at} | more


def event(item_id: str, at: int = NOW, **more: Any) -> dict[str, Any]:
    return {"user_id": "712", "item_id": item_id, "action": "click", "timestamp": at} | more


def post(server: Any, path: str, *entries: dict[str, Any]) -> Any:
    return server.http.post(f"/{path}", json={path: list(entries)})


def logged(log: Path, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in (log / "spool").glob(f"{kind}-*"):
        # A file that has just been made has no schema yet, and a batch may be written at this moment.
        with (
            contextlib.suppress(pa.ArrowInvalid, OSError),
            pa.OSFile(str(path)) as file,
            pa.ipc.open_stream(file) as stream,
        ):
            for batch in stream:
                rows += batch.to_pylist()
    return rows


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def logging(
    tmp_path: Path, log: Path, registry: Path, redis_server: EmbeddedRedis, store: redis.Redis, kit: SimpleNamespace
) -> Iterator[Any]:
    """A service of two workers with a log."""
    with kit.serving(tmp_path, registry, redis_server.url, exposure_log=log, workers=2) as server:
        yield server


def test_impressions_count_once_per_item_on_any_worker(logging: Any, log: Path, kit: SimpleNamespace) -> None:
    answers = [post(logging, "impressions", seen("r-1", "5", "7"), seen("r-2", "5")).json() for _ in range(20)]
    assert answers[0] == {"accepted": 3, "new": 3}
    assert answers[1:] == [{"accepted": 3, "new": 0}] * 19
    # Another position or request makes another impression, unless the impression has an id.
    assert post(logging, "impressions", seen("r-2", "7", "5")).json()["new"] == 2
    one = seen("r-3", "5", impression_id="i-1")
    again = seen("r-3", "5", impression_id="i-1", at=NOW + 1)
    assert post(logging, "impressions", one, again).json() == {"accepted": 2, "new": 1}
    kit.wait_until(lambda: len(logged(log, "impressions")) == 6)
    rows = [(row["request_id"], row["position"], row["item_id"]) for row in logged(log, "impressions")]
    assert sorted(rows) == [
        ("r-1", 1, "5"),
        ("r-1", 2, "7"),
        ("r-2", 1, "5"),
        ("r-2", 1, "7"),
        ("r-2", 2, "5"),
        ("r-3", 1, "5"),
    ]
    assert len({row["impression_id"] for row in logged(log, "impressions")}) == 6
    assert {row["time_ms"] for row in logged(log, "impressions")} == {NOW}


def test_events_are_logged_once_with_their_request_and_position(logging: Any, log: Path, kit: SimpleNamespace) -> None:
    one = event("5", request_id="r-1", position=2, event_id="e-1", value=12.5)
    plain = event("6", scene=3)
    assert post(logging, "events", one, plain).json() == {"accepted": 2, "new": 2}
    for _ in range(10):
        assert post(logging, "events", one, plain, one).json() == {"accepted": 3, "new": 0}
    kit.wait_until(lambda: len(logged(log, "events")) == 2)
    rows = {row["item_id"]: row for row in logged(log, "events")}
    assert rows["5"] | {"logged_ms": 0} == {
        "event_id": rows["5"]["event_id"],
        "request_id": "r-1",
        "user_id": "712",
        "item_id": "5",
        "action": "click",
        "scene": None,
        "position": 2,
        "value": 12.5,
        "time_ms": NOW,
        "logged_ms": 0,
    }
    assert (rows["6"]["scene"], rows["6"]["request_id"], rows["6"]["value"]) == ("3", None, None)
    for bad in (-1, 1e13, "2", True):
        assert post(logging, "events", event("7", value=bad)).status_code == 422
    assert {len(row["event_id"]) for row in rows.values()} == {32}


def test_ids_are_unique_per_user_and_time_for_events_and_per_request_for_impressions(
    logging: Any, log: Path, kit: SimpleNamespace
) -> None:
    events = [
        event("5", event_id="1"),
        event("5", event_id="1") | {"user_id": "713"},
        event("5", NOW + 1, event_id="1"),
        # The parts of an identity are apart, whatever characters the ids have.
        event("5", event_id=None) | {"user_id": "a\x1fb", "item_id": "c"},
        event("5", event_id=None) | {"user_id": "a", "item_id": "b\x1fc"},
    ]
    for _ in range(5):
        post(logging, "events", *events)
        post(logging, "impressions", seen("r-1", "5", impression_id="1"), seen("r-2", "5", impression_id="1"))
    kit.wait_until(lambda: len(logged(log, "events")) == 5 and len(logged(log, "impressions")) == 2)
    assert len({row["event_id"] for row in logged(log, "events")}) == 5
    assert len({row["impression_id"] for row in logged(log, "impressions")}) == 2


def test_without_redis_impressions_are_logged_and_events_are_refused(
    tmp_path: Path, log: Path, registry: Path, kit: SimpleNamespace
) -> None:
    with EmbeddedRedis() as own, kit.serving(tmp_path, registry, own.url, exposure_log=log) as server:
        own.close()
        assert post(server, "impressions", seen("r-1", "5")).json() == {"accepted": 1, "new": None}
        assert post(server, "impressions", seen("r-1", "5")).json() == {"accepted": 1, "new": None}
        refused = post(server, "events", event("5"))
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        kit.wait_until(lambda: len(logged(log, "impressions")) == 2)
    first, second = logged(log, "impressions")
    assert first["impression_id"] == second["impression_id"]  # by which the joiner tells them


def test_without_a_log_impressions_are_counted_and_need_redis(
    tmp_path: Path, registry: Path, kit: SimpleNamespace
) -> None:
    with EmbeddedRedis() as own, kit.serving(tmp_path, registry, own.url) as server:
        assert post(server, "impressions", seen("r-1", "5")).json() == {"accepted": 1, "new": 1}
        assert "funnelrank_impressions_total 1.0" in server.http.get("/metrics").text
        own.close()
        refused = post(server, "impressions", seen("r-1", "6"))
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"items": []}, "impressions[0].items"),
        ({"items": [{"item_id": "5", "position": 0}]}, "impressions[0].items[0].position"),
        ({"items": [{"item_id": "5"}]}, "impressions[0].items[0].position"),
        ({"request_id": "a b"}, "impressions[0].request_id"),
        ({"timestamp": NOW // 1000}, "impressions[0].timestamp"),
        ({"timestamp": NOW + 3_600_000}, "impressions[0].timestamp"),
        ({"colour": "red"}, "impressions[0].colour"),
    ],
)
def test_a_bad_impression_is_refused_by_field(server: Any, change: dict[str, Any], field: str) -> None:
    refused = post(server, "impressions", seen("r-1", "5") | change)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field


def test_a_batch_of_too_many_items_is_refused(server: Any) -> None:
    refused = post(server, "impressions", *(seen(f"r-{i}", *map(str, range(501))) for i in range(10)))
    assert refused.status_code == 422
    assert "5000 are allowed" in refused.json()["detail"]


def test_id_sets_are_bounded_and_expire(server: Any, store: redis.Redis) -> None:
    post(server, "impressions", *(seen(f"r-{i}", "5") for i in range(300)))
    keys: Any = store.keys("fr:ids:impressions:*")
    assert 10 < len(keys) <= 64
    assert all(0 < int(str(store.pttl(key))) <= 3_600_000 for key in keys)
    # An old id is removed, and a set never exceeds its limit.
    key = keys[0]
    store.zadd(key, {f"old-{i}": NOW - 4_000_000 for i in range(10)})
    store.zadd(key, {f"{i:016}": NOW - 1000 for i in range(12_000)})
    post(server, "impressions", *(seen(f"s-{i}", "5") for i in range(300)))
    assert store.zcard(key) == 10_000
    assert store.zscore(key, "old-3") is None
