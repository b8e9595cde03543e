"""Measures a Redis Cluster of six nodes: the load of many rows, and rankings while slots move and a primary fails."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from bench.measuring.cpu import memory_mib
from bench.measuring.redis_cluster import ClusterNode, RedisCluster, redis_cluster, wait_for
from bench.measuring.servers import service
from bench.results.targets import Verdict
from bench.scale.parts import PartResult, ScaleSizes
from bench.scale.redis_rankings import Rankings, ask_all, checked, requests
from bench.scale.redis_tables import BEHAVIOURS_PER_USER, write_tables
from features import FeatureSchema
from features.layouts import Layouts
from features.table_names import TableNames
from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout
from service.store.redis.loading.load import load_folder
from service.store.redis.memory import Memory, StoredCounts, memory_of

FULL = (5_000_000, 2_000_000)
MOST_GIB = 12.0
_SPARE = 1.3  # fragmentation, buffers of replication, pages copied while a replica begins
_GIB = 1 << 30
_SAMPLE = Path("sample")
_BUNDLE = _SAMPLE / "registry" / "kuairand-mmoe" / "3"
_NAMES = TableNames(users="users/", items="items/", behaviours="behaviours/")
# A busy machine must not take a slow node for a lost one, nor cut a replica off.
_OPTIONS = ("--cluster-node-timeout", "5000", "--repl-diskless-sync-delay", "0")
_LAG_MS = 1000
_SETTLE_SECONDS = 2.0


def measure(sizes: ScaleSizes) -> PartResult:
    """Load a cluster, then move slots and end a primary while a service with and one without replicas rank."""
    manifest = orjson.loads((_BUNDLE / "manifest.json").read_bytes())
    schema = FeatureSchema.model_validate(manifest["feature_schema"])
    layouts = Layouts.of(schema)
    users, items = FULL if sizes.full else (sizes.redis_users, sizes.redis_items)
    users, items = fitting(layouts, users, items)
    memory = _memory(layouts, users, items)
    lines = _sizes_lines(layouts, memory, users, items)
    print("\n".join(lines), flush=True)  # before the long work
    with tempfile.TemporaryDirectory(prefix="redis-", dir=sizes.folder) as folder, _six_nodes() as (cluster, replicas):
        write_tables(_SAMPLE / "kuairand", Path(folder), users, items)
        loaded = _loaded(Path(folder), schema, cluster)
        resident = sum(memory_mib(node.pid)["rss"] for node in (*cluster.nodes, *replicas)) / 1024
        asked = requests(users, items)
        ranked = _ranked(cluster, replicas, _registry(Path(folder)), asked, sizes.redis_slots)
    figures: dict[str, Any] = {
        "users": users,
        "items": items,
        "planned_gib": 2 * memory.total / _GIB,
        "resident_gib": resident,
        "load": loaded,
        "phases": {name: {side: asdict(r) for side, r in sides.items()} for name, sides in ranked.items()},
    }
    every = [rankings for sides in ranked.values() for rankings in sides.values()]
    verdicts = [
        Verdict("redis: wrong rankings", sum(len(r.wrong) for r in every), 0, at_least=False),
        Verdict("redis: failed rankings", sum(r.failed for r in every), 0, at_least=False),
        Verdict("redis: resident memory of six nodes, GiB", resident, MOST_GIB, at_least=False),
    ]
    return PartResult([*lines, *_load_lines(loaded, resident), *_rank_lines(ranked)], figures, verdicts)


def _memory(layouts: Layouts, users: int, items: int) -> Memory:
    counts = StoredCounts(users, items, behaviours=BEHAVIOURS_PER_USER, user_id_characters=len(str(users)) + 1)
    return memory_of(layouts, counts)


def fitting(layouts: Layouts, users: int, items: int, most_gib: float = MOST_GIB) -> tuple[int, int]:
    """Halve both counts until primaries and replicas stay within `most_gib` of resident memory."""
    while 2 * _SPARE * _memory(layouts, users, items).total > most_gib * _GIB:
        users //= 2
        items //= 2
    return users, items


@contextmanager
def _six_nodes() -> Iterator[tuple[RedisCluster, list[ClusterNode]]]:
    with redis_cluster(*_OPTIONS) as cluster, ExitStack() as stack:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "client-output-buffer-limit", "replica 0 0 0")
        yield cluster, [stack.enter_context(cluster.replica_of(node, *_OPTIONS)) for node in cluster.nodes]


def _loaded(folder: Path, schema: FeatureSchema, cluster: RedisCluster) -> dict[str, float]:
    started = time.perf_counter()
    cpu = time.process_time()
    rows = load_folder(folder, schema, cluster.url, names=_NAMES)
    seconds = time.perf_counter() - started
    return {"rows": sum(rows.values()), "seconds": seconds, "cpu_s": time.process_time() - cpu}


def _registry(folder: Path) -> Path:
    """A registry with the sample's bundle alone: other lines would want rows of other schemas."""
    registry = folder / "registry"
    shutil.copytree(_BUNDLE, registry / _BUNDLE.parent.name / _BUNDLE.name)
    write_rollout(registry, Target(name=_BUNDLE.parent.name, version=_BUNDLE.name), "bench")
    return registry


def _ranked(
    cluster: RedisCluster, replicas: list[ClusterNode], registry: Path, asked: Sequence[bytes], slots: int
) -> dict[str, dict[str, Rankings]]:
    """Rank in four phases; return what each service answered in each."""
    settings: dict[str, Any] = {
        "redis_timeout_ms": 1000,
        "default_timeout_ms": 10_000,
        "log_level": "error",
        "max_wait_ms": 10_000,
    }
    with (
        service(registry, cluster.url, **settings) as primaries,
        service(registry, cluster.url, **settings, redis_replica_lag_ms=_LAG_MS, item_cache_mb=0) as lagging,
    ):
        ports = {"primaries": primaries.port, "replicas": lagging.port}
        expected = ask_all(primaries.port, asked)
        phases = {}
        with checked(ports, asked, expected) as phase:
            time.sleep(_SETTLE_SECONDS)
            phases["calm"] = phase()
            _move_slots(cluster, slots)
            phases[f"{slots} slots move"] = phase()
            cluster.nodes[2].kill()
            wait_for(lambda: replicas[2].ask("ROLE")[0] == b"master", 120)
            time.sleep(_SETTLE_SECONDS)
            phases["a primary fails over"] = phase()
            time.sleep(_SETTLE_SECONDS)
            phases["after it"] = phase()
    return phases


def _move_slots(cluster: RedisCluster, slots: int) -> None:
    """Move slots with their keys from the first node to the second, and half of them back."""
    first, second = cluster.nodes[:2]
    for slot in range(slots):
        cluster.move(slot, first, second)
    for slot in range(slots // 2):
        cluster.move(slot, second, first)


def _sizes_lines(layouts: Layouts, memory: Memory, users: int, items: int) -> list[str]:
    each = ", ".join(f"{group.each:.0f} per key of {group.name}" for group in memory.groups)
    rows = f"{layouts.user.dtype.itemsize} (user), {layouts.item.dtype.itemsize} (item), {layouts.member.itemsize}"
    gib = 2 * memory.total / _GIB
    counts = f"{users:,} users with {BEHAVIOURS_PER_USER} behaviours and {items:,} items"
    return [
        f"redis: bytes: {each}; of a row {rows} (behaviour)",
        f"redis: {counts} are planned with {gib:.2f} GiB in three primaries and three replicas",
    ]


def _load_lines(loaded: dict[str, float], resident: float) -> list[str]:
    rows = loaded["rows"]
    speed = f"{rows:,.0f} rows in {loaded['seconds']:.0f} s ({rows / loaded['seconds']:,.0f}/s)"
    cpu_us = loaded["cpu_s"] / rows * 1e6
    return [f"load: {speed}, {cpu_us:.1f} us of the loader's CPU per row; resident {resident:.2f} GiB"]


def _rank_lines(ranked: dict[str, dict[str, Rankings]]) -> list[str]:
    lines = [
        f"  {'phase':<22} {'read from':<10} {'whole':>7} {'incomplete':>10} {'failed':>7} {'wrong':>6} {'ms max':>7}"
    ]
    for phase, sides in ranked.items():
        for side, r in sides.items():
            counts = f"{r.whole:7} {r.incomplete:10} {r.failed:7} {len(r.wrong):6} {r.slowest_ms:7.0f}"
            lines.append(f"  {phase:<22} {side:<10} {counts}")
    return lines
