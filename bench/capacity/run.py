"""Measures what a plan is made from, and checks the plan against real runs at sizes that fitted no constant.

The sample's bundle is served by one worker on a core of its own; the load and Redis are on the others. CPU time is
that of the worker and of Redis, each from the kernel. The constants of a ranking's cost are fitted at 20 and 1,000
candidates with a warm cache and at 20 and 200 with a cold one. The checks are at 100 and 500 candidates, at two rates
of an open loop, and with a small item cache under Zipf's law.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from redis import Redis

from bench.capacity.tier import (
    BEHAVIOURS,
    SEED,
    Spent,
    Tier,
    alone,
    cache_counts,
    grown,
    open_loop,
    request_set,
    spent,
    spent_cold,
    spent_warm,
)
from bench.costs import TABLES
from bench.inputs import store, workload
from bench.measuring.cpu import cores, stay_on
from bench.measuring.driver import Driver
from bench.measuring.measure import CONNECTIONS
from bench.measuring.open_loop import request_of
from bench.measuring.servers import service
from bench.results.report import machine
from features.layouts import Layouts
from loadtest.capacity.cache import distinct, hit_ratio, zipf
from loadtest.capacity.figures import Figures, PlanCheck, RankingCost
from loadtest.capacity.simulation import simulated
from service.bundle.registry import folder_of
from service.bundle.verify import read_manifest
from service.rollout.rollout import read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.store.item_cache import ItemCache

ITEMS = 60_000
ZIPF = 0.9
SMALL_CACHE_MB = 2
FITTED = (20, 1000)
COLD = (20, 200)
CHECKED = (100, 500)
RATES = (0.5, 0.7)  # of the highest that the worker's CPU allows
_COLD = 200  # candidates
_COLD_RUNS = 3
_QUANTILES = 21


def run_capacity(out: Path, quick: bool = False) -> Figures:
    """Measure for about three minutes, and write the figures to `out`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    own, others = cores()
    stay_on(others)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name, EmbeddedRedis() as redis, Driver() as driver:
            figures = _figures(Path(name), redis, driver, own, others, 60 if quick else 300)
    finally:
        stay_on(own | others)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(figures.model_dump_json(indent=1) + "\n")
    return figures


def _figures(
    folder: Path, redis: EmbeddedRedis, driver: Driver, own: set[int], others: set[int], requests: int
) -> Figures:
    # The sample's bundle, and rows whose memory Redis tells.
    registry = folder / "registry"
    shutil.copytree("sample/registry", registry, ignore=shutil.ignore_patterns("rules.json"))
    manifest = read_manifest(folder_of(registry, read_rollout(registry).stable))
    layouts = Layouts.of(manifest.feature_schema)
    with Redis.from_url(redis.url) as client:
        item_bytes = grown(client, lambda: store.fill(client, layouts, TABLES, ITEMS, peer=False)) / ITEMS
        of_users = grown(client, lambda: store.fill_users(client, layouts, TABLES, (BEHAVIOURS,)))
        # Rows of the plain peer lie beside those of the service.
        peers = sum(client.memory_usage(key) or 0 for key in [*client.keys("user:*"), *client.keys("history:*")])
        user_bytes = (of_users - peers) / store.USERS

    def tier(**settings: object) -> Any:
        stay_on(own)
        return service(registry, redis.url, 1, **settings)

    # The costs of a ranking, with a cold cache, then with a warm one.
    cold: dict[int, list[tuple[Spent, Spent]]] = {count: [] for count in COLD}
    for count in COLD * _COLD_RUNS:
        with tier() as server:
            stay_on(others)
            cold[count].append(spent_cold(Tier(server, redis, driver, folder), count))
    with tier() as server:
        stay_on(others)
        here = Tier(server, redis, driver, folder)
        warm = spent_warm(here, (*FITTED, *CHECKED), requests)
        request_bytes = _request_bytes(here)
        answer_bytes = _answer_bytes(here)
        times = alone(here, _COLD, requests)
        ranking = _with_cold(_line(warm), cold)
        highest = 1000 / ranking.at(_COLD, 0)
        loads = {rate: open_loop(here, _COLD, rate * highest, requests) for rate in RATES}
        memory = server.memory_mib()["pss"]
    redis_ms = _with_cold(_line(warm, "redis_ms"), cold, "redis_ms")
    redis_bytes = _with_cold(_line(warm, "redis_bytes"), cold, "redis_bytes")
    made = Figures(
        machine=machine(),
        model=manifest.label,
        behaviours=BEHAVIOURS,
        ranking_ms=ranking,
        redis_ms=redis_ms,
        request_bytes=request_bytes,
        answer_bytes=answer_bytes,
        redis_bytes=redis_bytes,
        log_bytes=_log_bytes(tier, redis, driver, folder, others),
        floor_ms=max(0.0, float(np.median(times)) - ranking.at(_COLD, 0)),
        service_times=tuple(np.quantile(times, np.linspace(0, 1, _QUANTILES)).tolist()),
        worker_mib=memory,
        cached_item_bytes=ItemCache(layouts, 1, 1.0).row_bytes,
        user_bytes=user_bytes,
        item_bytes=item_bytes,
    )
    # Compare with runs that fitted nothing.
    checks = [_check(f"CPU ms of C={c}, warm cache", made.ranking_ms.at(c, 0), warm[c].worker_ms) for c in CHECKED]
    for rate, load in loads.items():
        planned = simulated(made, made.ranking_ms.at(_COLD, 0), rate * highest, SEED)
        checks.append(_check(f"p50 ms at {rate:.0%} of a worker's CPU", planned.p50, load.percentile(0.5)))
        checks.append(_check(f"p99 ms at {rate:.0%} of a worker's CPU", planned.p99, load.percentile(0.99)))
    with tier(item_cache_mb=SMALL_CACHE_MB) as server:
        stay_on(others)
        checks += _zipf_checks(Tier(server, redis, driver, folder), made, requests)
    return made.model_copy(update={"checks": tuple(checks)})


def _check(title: str, planned: float, real: float) -> PlanCheck:
    return PlanCheck(what=title, planned=planned, real=real)


def _line(warm: dict[int, Spent], part: str = "worker_ms") -> RankingCost:
    """The straight line through the costs at the fitted numbers of candidates."""
    return _of_sizes([getattr(warm[count], part) for count in FITTED])


def _with_cold(warm: RankingCost, cold: dict[int, list[tuple[Spent, Spent]]], part: str = "worker_ms") -> RankingCost:
    """Add what candidates cost that are not in the cache: the straight line through what cold runs cost beyond warm
    ones, each the median of several workers.
    """
    few, many = (median(getattr(of, part) - getattr(beside, part) for of, beside in cold[count]) for count in COLD)
    slope = max(0.0, (many - few) / (COLD[1] - COLD[0]))
    return warm.model_copy(update={"per_missing_item": slope, "any_missing": max(0.0, few - slope * COLD[0])})


def _request_bytes(tier: Tier) -> RankingCost:
    """Bytes of a request with its headers."""
    return _of_sizes([len(_request(tier, count)) for count in FITTED])


def _answer_bytes(tier: Tier) -> RankingCost:
    """Bytes of an answer that has every candidate, with its headers."""
    sizes = []
    for count in FITTED:
        with socket.create_connection(("127.0.0.1", tier.server.port)) as connection:
            connection.sendall(_request(tier, count))
            answer = connection.makefile("rb")
            head = b"".join(iter(answer.readline, b"\r\n")) + b"\r\n"
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            sizes.append(len(head) + length)
            answer.close()
    return _of_sizes(sizes)


def _request(tier: Tier, candidates: int) -> bytes:
    body = workload.make(tier.folder, candidates, BEHAVIOURS).bodies.read_bytes().splitlines()[0]
    return request_of(json.loads(body))


def _of_sizes(sizes: Sequence[float]) -> RankingCost:
    """The straight line through the sizes at the fitted numbers of candidates."""
    few, many = FITTED
    slope = max(0.0, (sizes[1] - sizes[0]) / (many - few))
    return RankingCost(fixed=max(0.0, sizes[0] - slope * few), per_candidate=slope)


def _log_bytes(tier: Any, redis: EmbeddedRedis, driver: Driver, folder: Path, others: set[int]) -> RankingCost:
    """Bytes of the exposure log per ranking that answers with every candidate, as it is written."""
    sizes = []
    for count in FITTED:
        log = folder / f"log-{count}"
        log.mkdir()
        load = workload.make(folder, count, BEHAVIOURS)
        with tier(exposure_log=log, max_candidates=max(FITTED), exposure_cut="true") as server:
            stay_on(others)
            driver.drive(server.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
        sizes.append(sum(path.stat().st_size for path in log.rglob("*") if path.is_file()) / workload.BODIES)
    return _of_sizes(sizes)


def _zipf_checks(tier: Tier, figures: Figures, requests: int) -> list[PlanCheck]:
    """A small cache, and candidates by Zipf's law: hits, and the CPU of a ranking."""
    rng = np.random.default_rng(SEED)
    weights = np.arange(1, ITEMS + 1, dtype=np.float64) ** -ZIPF
    weights /= weights.sum()
    drawn = [
        [store.item_id(int(i)) for i in rng.choice(ITEMS, _COLD, replace=False, p=weights)] for _ in range(4 * requests)
    ]
    load = request_set(tier, drawn)
    tier.driver.drive(tier.server.port, "/rank", load.bodies, requests, CONNECTIONS)
    before = cache_counts(tier)
    rounds = [spent(tier, load, 3 * requests) for _ in range(3)]
    hits, misses = (after - earlier for after, earlier in zip(cache_counts(tier), before, strict=True))
    rows = SMALL_CACHE_MB * (1 << 20) / figures.cached_item_bytes
    planned = hit_ratio(distinct(zipf(ITEMS, ZIPF), _COLD), rows)
    missing = _COLD * (1 - planned)
    title = f"of C={_COLD}, Zipf {ZIPF}, a cache of {rows:,.0f} of {ITEMS:,} items"
    return [
        _check(f"hits {title}", planned, hits / (hits + misses)),
        _check(f"CPU ms {title}", figures.ranking_ms.at(_COLD, missing), min(cost.worker_ms for cost in rounds)),
        _check(f"Redis' CPU ms {title}", figures.redis_ms.at(_COLD, missing), min(cost.redis_ms for cost in rounds)),
    ]
