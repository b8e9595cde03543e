"""Tests that training counts a log to the same numbers that the service would have read, row by row and bit by bit."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from counted_log import COUNTERS, SCHEMA, START_MS, CountedLog, counted_log
from small_tables import RECIPE

from features import FeatureSchema
from features.layouts import Layouts
from models.data.cache import open_data
from models.recipe import parse_recipe
from service.ranking.inputs.counter_numbers import counter_numerics
from service.sample.embedded_redis import EmbeddedRedis
from service.store.opening import open_store

Call = tuple[str, dict[str, Any]]  # a path, and one element of its body


def scene_of(row: Any) -> str | None:
    return row.scene if isinstance(row.scene, str) else None


def calls_of(log: CountedLog) -> list[tuple[int, Call]]:
    """What callers send, each with the time of its arrival."""
    calls: list[tuple[int, Call]] = []
    for row in log.impressions.itertuples():
        shown = {
            "request_id": f"{row.user_id}-{row.item_id}-{row.time_ms}",
            "items": [{"item_id": row.item_id, "position": 1}],
            "timestamp": row.time_ms,
            "user_id": row.user_id,
            "scene": scene_of(row),
        }
        calls.append((row.arrived_ms, ("impressions", shown)))
    for row in log.behaviours.itertuples():
        done = {"user_id": row.user_id, "item_id": row.item_id, "action": row.action, "scene": scene_of(row)}
        calls.append((row.arrived_ms, ("events", done | {"timestamp": row.time_ms})))
    return sorted(calls, key=lambda call: call[0])


def as_served(url: str, http: Any, layouts: Layouts, log: CountedLog) -> np.ndarray:
    """Replay a day: before each impression, send what has arrived by then, and read its counters."""
    calls = calls_of(log)
    asked = log.impressions.sort_values("time_ms", kind="stable")
    numbers = np.empty((len(asked), len(COUNTERS)), np.float32)

    async def replay() -> None:
        reader = open_store(url, 5000)
        sent = 0
        try:
            for place, row in zip(asked.index, asked.itertuples(), strict=True):
                first = sent
                while sent < len(calls) and calls[sent][0] < row.time_ms:
                    sent += 1
                for path in ("impressions", "events"):
                    body = [element for _, (to, element) in calls[first:sent] if to == path]
                    if body:
                        answer = await asyncio.to_thread(http.post, f"/{path}", json={path: body})
                        assert answer.status_code == 200, answer.text
                scene = scene_of(row)
                stored = await reader.fetch(layouts, row.user_id, [row.item_id], 5, None, False, scene)
                assert not stored.corrupt
                assert not stored.unread
                keys = stored.items.keys
                numbers[place] = counter_numerics(layouts, stored.counters, keys, scene, row.time_ms)[0]
        finally:
            reader.close()

    asyncio.run(replay())
    return numbers


def as_trained(folder: Path, log: CountedLog) -> np.ndarray:
    """The counters of the impressions in the data of a recipe that reads the log as tables."""
    folder.mkdir()
    tables = {"users": log.users, "items": log.items, "impressions": log.impressions, "behaviours": log.behaviours}
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    hours = [pd.Timestamp(START_MS + hour * 3_600_000, unit="ms", tz="UTC").isoformat() for hour in (0, 22, 23, 24)]
    split = {"by": "time", "train": hours[:2], "validation": hours[1:3], "test": hours[2:]}
    data = {"dir": str(folder), "scene": "scene", "arrived_ms": "arrived_ms", "split": split}
    changes = {"data": data, "features": SCHEMA, "extra_evaluations": []}
    tasks = [{"type": "independent", "name": "pctr", "label": "click"}]
    recipe = parse_recipe(RECIPE | changes | {"tasks": tasks, "model": RECIPE["model"] | {"encoders": []}}, "test")
    parts = open_data(recipe, folder / "cache").parts
    counters = [part.counters for part in parts.values() if part.counters is not None]
    # The parts follow one another in time; each keeps the table's order.
    time = log.impressions["time_ms"].to_numpy()
    part = np.searchsorted([START_MS + hour * 3_600_000 for hour in (22, 23)], time, side="right")
    numbers = np.empty((len(time), len(COUNTERS)), np.float32)
    numbers[np.argsort(part, kind="stable")] = np.concatenate(counters)
    return numbers


@pytest.fixture
def running(kit: SimpleNamespace, tmp_path: Path, redis_server: EmbeddedRedis, store: redis.Redis) -> Iterator[Any]:
    kit.publish(tmp_path / "registry", "1", schema=SCHEMA)
    kit.go_live(tmp_path / "registry", "1")
    with kit.serving(tmp_path, tmp_path / "registry", redis_server.url, workers=2) as server:
        yield server


def test_a_replayed_day_gives_the_numbers_of_training(
    running: Any, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    log = counted_log()
    rows = log.items.to_dict("records")
    items = [
        {
            "item_id": row["item_id"],
            "features": {name: row[name] for name in ("shop", "price") if row[name] is not None},
        }
        for row in rows
    ]
    assert running.put("/features/items", {"items": items}).status_code == 200
    layouts = Layouts.of(FeatureSchema.model_validate(SCHEMA))
    served = as_served(redis_server.url, running.http, layouts, log)
    trained = as_trained(tmp_path / "tables", log)
    for place, counter in enumerate(COUNTERS):
        np.testing.assert_array_equal(served[:, place], trained[:, place], counter["name"])
        # Each counter says something: it has several values, and most are there.
        assert len(np.unique(trained[:, place])) > 3, counter["name"]
        assert np.isfinite(trained[:, place]).mean() > 0.5, counter["name"]
