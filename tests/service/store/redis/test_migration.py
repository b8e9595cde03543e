"""Tests the runbook's steps to a new feature schema: no event is lost under either schema."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.keys import SCHEMAS, behaviours_key, user_key

USERS = [f"u{i}" for i in range(20)]
ITEMS = [f"i{i}" for i in range(40)]
START = int(time.time() * 1000)
EMPTY = {"topics": None, "quality": None}
OF_USER = {
    u: {"user_id": u, "gender": "fm"[i % 2], "city": ["Bern", "Basel", "Genf"][i % 3], "age": 20 + i, "interests": None}
    for i, u in enumerate(USERS)
}
OF_ITEM = {
    t: {"item_id": t, "tag": i % 7, "price": i / 3, "colour": ["red", "blue"][i % 2]} | EMPTY
    for i, t in enumerate(ITEMS)
}


def next_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Users have a city and no gender, items a colour, behaviours the colour and no price."""
    other: dict[str, Any] = json.loads(json.dumps(schema))
    other["user"][1] = {"name": "city", "type": "categorical"}
    other["item"].append({"name": "colour", "type": "categorical"})
    other["behaviour"]["item_features"] = ["item_id", "colour", "tag"]
    return other


class Traffic:
    """Sends events of all users, one after another; `log` has those that the service accepted."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.log = []
        self._stop = threading.Event()

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            n = len(self.log)
            event = {
                "user_id": USERS[n % 20],
                "item_id": ITEMS[(n * 7) % 40],
                "action": "click",
                "scene": n % 3,
                "timestamp": START + n,
            }
            answer = self.server.http.post("/events", json={"events": [event]})
            assert answer.status_code == 200, answer.text
            self.log.append(event)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        def run() -> None:
            while not self._stop.is_set():
                self.send()

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(run)
            try:
                yield
            finally:
                self._stop.set()
            sending.result()

    def grown(self, kit: SimpleNamespace) -> None:
        """Wait until every user has had more events than a sequence can hold."""
        target = len(self.log) + 120
        kit.wait_until(lambda: len(self.log) >= target)


def export(folder: Path, events: list[dict[str, Any]], entities: bool = True) -> Path:
    folder.mkdir()
    if entities:
        pa.parquet.write_table(pa.Table.from_pylist(list(OF_USER.values())), folder / "users.parquet")
        pa.parquet.write_table(pa.Table.from_pylist(list(OF_ITEM.values())), folder / "items.parquet")
    renamed = [{k: v for k, v in e.items() if k != "timestamp"} | {"time_ms": e["timestamp"]} for e in events]
    pa.parquet.write_table(pa.Table.from_pylist(renamed), folder / "behaviours.parquet")
    return folder


def command(registry: Path, redis_url: str, *arguments: Any) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FUNNELRANK_")}
    environment |= {"FUNNELRANK_REDIS_URL": redis_url, "FUNNELRANK_REGISTRY": str(registry)}
    done = subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        cwd=Path(__file__).parents[4],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def newest(log: list[dict[str, Any]], user_id: str) -> list[dict[str, Any]]:
    return [e for e in reversed(log) if e["user_id"] == user_id][:5]


def own(layouts: Layouts, values: dict[str, Any], entity: Any) -> bytes:
    layout = layouts.layout(entity)
    return layout.pack({n: v for n, v in values.items() if n in layout})


def expected(
    kit: SimpleNamespace, layouts: Layouts, log: list[dict[str, Any]], user_id: str, item_ids: list[str]
) -> np.ndarray:
    """pCTR of the items, computed by hand from the raw values alone."""
    assert layouts.behaviour is not None
    packed = []
    for event in newest(log, user_id):
        item = own(layouts, OF_ITEM[event["item_id"]], "item")
        packed.append(layouts.behaviour.pack_event(item, "click", event["scene"], event["timestamp"]))
    rows = {
        "user": layouts.user.rows(own(layouts, OF_USER[user_id], "user")),
        "item": layouts.item.rows(b"".join(own(layouts, OF_ITEM[i], "item") for i in item_ids)),
        "context": layouts.context.rows(layouts.context.default_row),
        "behaviour": layouts.behaviour.rows(b"".join(packed)),
    }
    inputs = {f"{name}_{field}": arrays[field] for name, arrays in rows.items() for field in ("keys", "numerics")}
    return np.asarray(kit.scores_by_hand(inputs | {"behaviour_times": rows["behaviour"]["time"]})["pctr"])


def assert_ranks_from(
    kit: SimpleNamespace, server: Any, layouts: Layouts, log: list[dict[str, Any]], version: str
) -> None:
    """Check that every user's ranking, on any worker, is the one computed from raw values and the whole log."""
    for user_id in USERS:
        answer = server.rank(ITEMS, user_id=user_id).json()
        assert answer["degraded"] == []
        assert answer["model"]["version"] == version
        scores = {entry["item_id"]: entry["predictions"]["pctr"] for entry in answer["ranking"]}
        np.testing.assert_allclose([scores[i] for i in ITEMS], expected(kit, layouts, log, user_id, ITEMS), atol=1e-5)


def is_live(server: Any, version: str, role: str = "live") -> bool:
    workers = server.http.get("/models").json()["workers"]
    return len(workers) == 2 and all((w[role] or {}).get("version") == version for w in workers)


@pytest.mark.slow
def test_a_new_feature_schema_goes_live_while_events_come_and_loses_none_under_either(
    tmp_path: Path, kit: SimpleNamespace, layouts: Layouts, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    registry = tmp_path / "registry"
    url = redis_server.url
    other = next_schema(kit.SCHEMA)
    after = Layouts.of(FeatureSchema.model_validate(other))
    kit.publish(registry, "1")
    kit.go_live(registry, "1")
    older = [{"user_id": "u0", "item_id": "i0", "action": "click", "scene": 0, "timestamp": START - 9}]
    command(registry, url, "load", export(tmp_path / "first", older))
    with kit.serving(tmp_path, registry, url, workers=2) as server:
        traffic = Traffic(server)
        traffic.send(200)
        tables = export(tmp_path / "tables", traffic.log)
        kit.publish(registry, "2", schema=other)
        with traffic.flowing():
            traffic.grown(kit)  # what comes between the export and the load
            command(registry, url, "load", tables, "--bundle", "synthetic/2")
            since = export(tmp_path / "since", traffic.log[200:], entities=False)
            traffic.grown(kit)
            command(registry, url, "load", since, "--bundle", "synthetic/2")
            command(registry, url, "rollout", "--canary", "synthetic/2", "--percent", "50")
            kit.wait_until(lambda: is_live(server, "2", "canary"))
            assert {server.rank(["i1"], user_id=u).json()["model"]["version"] for u in USERS} == {"1", "2"}
            traffic.grown(kit)
            command(registry, url, "rollout", "synthetic", "2")
            kit.wait_until(lambda: is_live(server, "2"))
            changed = server.put(
                "/features/users",
                {"users": [{"user_id": "u3", "features": {"age": 77, "gender": "x", "city": "Chur"}}]},
            )
            assert changed.status_code == 200
        OF_USER["u3"] |= {"age": 77, "gender": "x", "city": "Chur"}
        assert_ranks_from(kit, server, after, traffic.log, "2")
        command(registry, url, "rollout", "--rollback", "--to", "1")
        kit.wait_until(lambda: is_live(server, "1"))
        assert_ranks_from(kit, server, layouts, traffic.log, "1")
        command(registry, url, "rollout", "synthetic", "2")
        kit.wait_until(lambda: is_live(server, "2"))
        command(registry, url, "load", "--forget", layouts.fingerprint)
        traffic.send(40)
        assert_ranks_from(kit, server, after, traffic.log, "2")
    assert store.keys(f"fr:{layouts.fingerprint}:*") == []
    assert store.hkeys(SCHEMAS) == [after.fingerprint.encode()]
    assert store.exists(user_key(after.fingerprint, "u3"), behaviours_key(after.fingerprint, "u3")) == 2
