"""Tests the planned memory of Redis: within 10 % of what a real Redis measures, for several schemas and counts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from synthetic_bundle import SCHEMA

from features import FeatureSchema
from features.layouts import Layouts
from funnelrank.main import main
from service.sample.embedded_redis import EmbeddedRedis
from service.store.base import NEVER, Lifetimes
from service.store.redis.clients import set_values
from service.store.redis.keys import (
    behaviours_key,
    item_counters_key,
    item_key,
    scene_counters_key,
    shown_items_key,
    user_counters_key,
    user_key,
)
from service.store.redis.memory import ALLOCATORS, StoredCounts, memory_of
from service.store.redis.writing.scripts import ADD_BEHAVIOURS, add_behaviours_arguments

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def layouts_of(users: int, items: int, behaviours: int) -> Layouts:
    """A schema with this many features of users and items, and sequences of this length (0: none)."""
    schema: dict[str, Any] = {
        "user": [{"type": "categorical", "name": f"u{i}"} for i in range(users)],
        "item": [{"type": "categorical", "name": "item_id"}]
        + [{"type": "numeric", "name": f"i{i}"} for i in range(items)],
        "context": [],
    }
    if behaviours:
        schema["behaviour"] = {"max_length": behaviours, "item_features": ["item_id", *(f"i{i}" for i in range(items))]}
    return Layouts.of(FeatureSchema.model_validate(schema))


def fill(client: redis.Redis, layouts: Layouts, counts: StoredCounts, lifetimes: Lifetimes) -> None:
    """Write what a load and events write, with ids of the stated length."""
    random = np.random.default_rng(1)
    users = [f"{i:0{counts.user_id_characters}d}" for i in range(counts.users)]
    items = [f"{i:0{counts.item_id_characters}d}" for i in range(counts.items)]
    for first in range(0, len(items), 2000):
        rows = {
            item_key(layouts.fingerprint, i): bytes(layouts.item.dtype.itemsize) for i in items[first : first + 2000]
        }
        set_values(client, rows)
    for first in range(0, len(users), 2000):
        rows = {
            user_key(layouts.fingerprint, i): bytes(layouts.user.dtype.itemsize) for i in users[first : first + 2000]
        }
        set_values(client, rows, lifetimes.user_ms)
    keep = layouts.kept_behaviours
    for first in range(0, len(users), 500):
        with client.pipeline(transaction=False) as pipeline:
            for user_id in users[first : first + 500]:
                if layouts.behaviour is not None and counts.behaviours:
                    size = layouts.member.itemsize
                    packed = random.bytes(size * counts.behaviours)
                    sent = [(NOW_MS + i, packed[i * size : (i + 1) * size]) for i in range(counts.behaviours)]
                    arguments = add_behaviours_arguments(sent[-keep:], keep, NOW_MS + DAY_MS, lifetimes)
                    keys = (behaviours_key(layouts.fingerprint, user_id), user_key(layouts.fingerprint, user_id))
                    pipeline.execute_command("EVAL", ADD_BEHAVIOURS, 2, *keys, *arguments)
                if counts.shown:
                    pipeline.set(shown_items_key(user_id), bytes(16 * counts.shown), px=DAY_MS)
            pipeline.execute()


SIZES = {
    "few": ((3, 2, 10), StoredCounts(users=2_000, items=1_000, behaviours=6), NEVER),
    "long rows": ((12, 9, 50), StoredCounts(users=3_000, items=5_000, behaviours=30), NEVER),
    "compact": ((1, 0, 20), StoredCounts(users=4_000, items=500, behaviours=20), NEVER),
    "full": ((2, 3, 100), StoredCounts(users=300, items=300, behaviours=500), NEVER),
    "items alone": ((1, 20, 0), StoredCounts(users=0, items=100_000, item_id_characters=20), NEVER),
    "many users": ((4, 4, 0), StoredCounts(users=100_000, items=10, user_id_characters=12), NEVER),
    "expiring": (
        (3, 4, 20),
        StoredCounts(users=5_000, items=5_000, behaviours=10, shown=40, user_rows_expire=True, behaviours_expire=True),
        Lifetimes(DAY_MS, DAY_MS),
    ),
}


COUNTERS: list[dict[str, Any]] = [
    {"name": "a", "statistic": "count", "by": "item", "actions": ["click"], "window_s": 86400, "bucket_s": 3600},
    {"name": "b", "statistic": "count", "by": "user", "actions": ["click"], "window_s": 86400, "bucket_s": 3600},
    {"name": "c", "statistic": "count", "by": "scene", "actions": ["click"], "window_s": 86400, "bucket_s": 3600},
    {"name": "d", "statistic": "count", "by": "user", "item_feature": "item_id", "values": 64, "actions": ["click"]}
    | {"window_s": 3600, "bucket_s": 600},
]
COUNTED = {
    "long cells": (COUNTERS, StoredCounts(users=3_000, items=4_000, cells=10, scenes=3)),
    "compact cells": (COUNTERS[3:], StoredCounts(users=5_000, items=10, cells=6, scenes=0)),
}


@pytest.mark.parametrize("case", COUNTED)
def test_the_planned_memory_of_counters_is_within_a_tenth_of_the_measured(case: str) -> None:
    counters, counts = COUNTED[case]
    base = layouts_of(2, 2, 0).schema
    layouts = Layouts.of(FeatureSchema.model_validate(base.model_dump() | {"counters": counters}))
    users = [f"{i:08d}" for i in range(counts.users)]
    items = [f"{i:08d}" for i in range(counts.items)]
    assert counts.cells is not None
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        fill(client, layouts, counts, NEVER)
        for place, layout in enumerate(layouts.counters):
            cell = bytes(layout.entries * 8)
            names = [str(place)] if layout.item_feature is None else [f"{place}:{n}" for n in range(counts.cells)]
            with client.pipeline(transaction=False) as pipeline:
                for user_id in users if layout.by == "user" else ():
                    key = user_counters_key(layouts.fingerprint, user_id)
                    for name in names:
                        pipeline.hset(key, name, cell)
                    pipeline.pexpire(key, DAY_MS)
                for item_id in items if layout.by == "item" else ():
                    pipeline.set(item_counters_key(layouts.fingerprint, item_id), cell, px=DAY_MS)
                for scene in range(counts.scenes) if layout.by == "scene" else ():
                    pipeline.set(scene_counters_key(layouts.fingerprint, f"{scene:08d}"), cell, px=DAY_MS)
                pipeline.execute()
        memory: Any = client.info("memory")
        assert client.dbsize() == sum(group.keys for group in memory_of(layouts, counts).groups)
    allocator = "libc" if memory["mem_allocator"] == "libc" else "jemalloc-16"
    planned = memory_of(layouts, counts, ALLOCATORS[allocator]).total
    assert abs(planned / memory["used_memory"] - 1) < 0.1, (planned, memory["used_memory"], memory["mem_allocator"])


def servers() -> list[str]:
    """The servers here: the embedded one, and that of the system if there is one."""
    return ["embedded", *(["system"] if shutil.which("redis-server") else [])]


@pytest.mark.parametrize("server_kind", servers())
@pytest.mark.parametrize("size", SIZES)
def test_the_planned_memory_is_within_a_tenth_of_the_measured(
    size: str, server_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, counts, lifetimes = SIZES[size]
    layouts = layouts_of(*widths)
    if server_kind == "system":
        monkeypatch.setattr("service.sample.embedded_redis.redis_server", lambda: shutil.which("redis-server"))
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        fill(client, layouts, counts, lifetimes)
        memory: Any = client.info("memory")
        assert client.dbsize() == sum(group.keys for group in memory_of(layouts, counts).groups)
    # The packages of Debian and Ubuntu use the system's jemalloc.
    allocator = "libc" if memory["mem_allocator"] == "libc" else "jemalloc-16"
    planned = memory_of(layouts, counts, ALLOCATORS[allocator]).total
    assert abs(planned / memory["used_memory"] - 1) < 0.1, (planned, memory["used_memory"], memory["mem_allocator"])


def test_sizes_of_allocations() -> None:
    jemalloc, jemalloc_16, libc = (ALLOCATORS[name] for name in ("jemalloc", "jemalloc-16", "libc"))
    assert [jemalloc(size) for size in (1, 24, 57, 64, 65, 81, 129, 161, 536, 4097)] == [
        *(8, 24, 64, 64, 80, 96, 160, 192, 640, 5120)
    ]
    assert [jemalloc_16(size) for size in (1, 24, 57, 65, 128, 129, 161)] == [16, 32, 64, 80, 128, 160, 192]
    assert [libc(size) for size in (1, 24, 25, 40, 41, 536)] == [24, 24, 40, 40, 56, 536]


def test_memory_grows_with_every_count() -> None:
    layouts = layouts_of(3, 4, 20)
    base = memory_of(layouts, StoredCounts(users=1000, items=1000, behaviours=10)).total
    for more in ({"users": 2000}, {"items": 2000}, {"behaviours": 20}, {"shown": 5}, {"user_rows_expire": True}):
        assert (
            memory_of(layouts, StoredCounts(**({"users": 1000, "items": 1000, "behaviours": 10} | more))).total > base
        ), more
    # The store keeps twice what a ranking reads.
    longest = memory_of(layouts, StoredCounts(users=1000, items=1000, behaviours=40)).total
    assert memory_of(layouts, StoredCounts(users=1000, items=1000, behaviours=4000)).total == longest


def test_the_command_reads_a_schema_or_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "manifest.json").write_text(json.dumps({"feature_schema": SCHEMA}))
    words = ["--users", "1000000", "--items", "200000", "--behaviours-per-user", "50"]
    printed = []
    for name in ("schema.json", "manifest.json"):
        assert main(["size", "--schema", str(tmp_path / name), *words]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    for line in ("item rows", "user rows", "sequences", "used_memory", "maxmemory"):
        assert line in printed[0]


def test_the_command_refuses_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.yaml").write_text("user: 3")
    words = ["--users", "1", "--items", "1"]
    for name in ("bad.json", "odd.yaml", "absent.json"):
        assert main(["size", "--schema", str(tmp_path / name), *words]) == 1
        assert name in capsys.readouterr().err
    assert main(["size", "--users", "-1", "--items", "1"]) == 2
