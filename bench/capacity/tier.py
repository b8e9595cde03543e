"""One worker and its Redis under load: the CPU time, bytes and latencies of rankings."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import uvloop
from redis import Redis

from bench.inputs import store, workload
from bench.measuring.cpu import cpu_seconds
from bench.measuring.driver import Driver
from bench.measuring.measure import CONNECTIONS
from bench.measuring.open_loop import Client, Load, offered, request_of
from bench.measuring.servers import Server
from service.sample.calls import call
from service.sample.embedded_redis import EmbeddedRedis

BEHAVIOURS = 50
SEED = 1
_RUNS = 5
_BLOCK = 50  # rankings
_COLD_RANKINGS = 250


@dataclass(frozen=True)
class Tier:
    """The worker and the Redis under test, and the load generator."""

    server: Server
    redis: EmbeddedRedis
    driver: Driver
    folder: Path


@dataclass(frozen=True)
class Spent:
    """CPU milliseconds per ranking, and bytes per ranking between the worker and Redis."""

    worker_ms: float
    redis_ms: float
    redis_bytes: float


def grown(client: "Redis", fill: Callable[[], object]) -> float:
    before = client.info("memory")["used_memory"]
    fill()
    return float(client.info("memory")["used_memory"] - before)


def spent(tier: Tier, load: workload.RequestSet, requests: int | None) -> Spent:
    """Send requests, all of them once if `requests` is None, and read what they cost."""
    count = requests or len(load.users)
    with Redis.from_url(tier.redis.url) as client:
        moved_before = _moved(client)
        before = tier.server.cpu_seconds()
        redis_before = cpu_seconds(tier.redis.pid)
        tier.driver.drive(tier.server.port, "/rank", load.bodies, count, CONNECTIONS)
        worker_ms = (tier.server.cpu_seconds() - before) * 1000 / count
        redis_ms = (cpu_seconds(tier.redis.pid) - redis_before) * 1000 / count
        return Spent(worker_ms, redis_ms, (_moved(client) - moved_before) / count)


def _moved(client: "Redis") -> float:
    stats = client.info("stats")
    return float(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])


def spent_warm(tier: Tier, counts: Sequence[int], requests: int) -> dict[int, Spent]:
    """The costs of rankings with a warm cache, by the number of candidates.

    The numbers take turns, so that a busy machine slows all of them alike; the lower quartile of the rounds counts,
    because other load can only add to a figure.
    """
    loads = {count: workload.make(tier.folder, count, BEHAVIOURS) for count in counts}
    rounds: dict[int, list[Spent]] = {count: [] for count in counts}
    for load in loads.values():
        tier.driver.drive(tier.server.port, "/rank", load.bodies, workload.BODIES * 4, CONNECTIONS)
    for _ in range(_RUNS):
        for count, load in loads.items():
            rounds[count].append(spent(tier, load, requests))
    return {count: _lower_quartile(of_count) for count, of_count in rounds.items()}


def _lower_quartile(rounds: Sequence[Spent]) -> Spent:
    place = (len(rounds) - 1) // 4
    values = (sorted(getattr(each, part.name) for each in rounds)[place] for part in fields(Spent))
    return Spent(*values)


def spent_cold(tier: Tier, candidates: int) -> tuple[Spent, Spent]:
    """The cost of rankings none of whose candidates is in the cache, and of as many with a warm cache right after.

    The worker must be a fresh one.
    """
    items = workload.HOT_ITEMS + candidates * _COLD_RANKINGS
    cold = spent(tier, workload.make_cold(tier.folder, candidates, BEHAVIOURS, items), None)
    warm = workload.make(tier.folder, candidates, BEHAVIOURS)
    tier.driver.drive(tier.server.port, "/rank", warm.bodies, workload.BODIES, CONNECTIONS)
    return cold, spent(tier, warm, _COLD_RANKINGS)


def alone(tier: Tier, candidates: int, requests: int) -> list[float]:
    """Wall milliseconds of rankings that wait for nobody: one after another, those of the fastest fifth of the blocks.

    Other load on the machine can only add to a block.
    """
    sent = _requests(tier, candidates)

    async def one_by_one() -> list[float]:
        client = Client(tier.server.port)
        taken = []
        try:
            for number in range(20 * _BLOCK + 2 * requests):
                started = time.perf_counter()
                await client.answer(sent[number % len(sent)])
                taken.append((time.perf_counter() - started) * 1000)
        finally:
            await client.close()
        return taken

    taken = uvloop.run(one_by_one())
    blocks = sorted((taken[start : start + _BLOCK] for start in range(0, len(taken), _BLOCK)), key=sum)
    whole = [block for block in blocks if len(block) == _BLOCK]
    return [ms for block in whole[: len(whole) // 5] for ms in block]


def _requests(tier: Tier, candidates: int) -> list[bytes]:
    bodies = workload.make(tier.folder, candidates, BEHAVIOURS).bodies.read_bytes().splitlines()
    return [request_of(json.loads(body)) for body in bodies]


def open_loop(tier: Tier, candidates: int, rate: float, requests: int) -> Load:
    """An open-loop load with arrivals of a Poisson process: of three loads the one with the lowest median."""
    sent = _requests(tier, candidates)

    async def loaded() -> Load:
        client = Client(tier.server.port)
        try:
            loads = [await offered(client, sent, rate, max(2.0, 2 * requests / rate), 0.5, SEED) for _ in range(3)]
            return min(loads, key=lambda load: load.percentile(0.5))
        finally:
            await client.close()

    return uvloop.run(loaded())


def request_set(tier: Tier, drawn: Sequence[list[str]]) -> workload.RequestSet:
    users = [store.user_id(i % store.USERS, BEHAVIOURS) for i in range(len(drawn))]
    return workload.write(tier.folder / "zipf.jsonl", len(drawn[0]), BEHAVIOURS, users, list(drawn))


def cache_counts(tier: Tier) -> tuple[float, float]:
    """Hits and misses of the item cache so far."""
    _, text = call("GET", f"http://127.0.0.1:{tier.server.port}/metrics", None)
    counts = {"hits": 0.0, "misses": 0.0}
    for line in text.splitlines():
        for name in counts:
            if line.startswith(f"funnelrank_item_cache_{name}_total"):
                counts[name] += float(line.split()[-1])
    return counts["hits"], counts["misses"]
