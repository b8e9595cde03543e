"""Measures one model over HTTP: the cost of warm, cold and many candidates, and the worker's profile."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis

from bench.contenders import profiled
from bench.contenders.raw import Raw
from bench.inputs import store, workload
from bench.measuring.driver import Driver
from bench.measuring.measure import CONNECTIONS, Contender, in_turn, over_http
from bench.measuring.servers import Server, application
from bench.results import targets
from service.sample.calls import call

TABLES = Path("sample/kuairand")
_PROFILED_REQUESTS = 300
_VERSIONS = 100
Table = dict[tuple[int, int], dict[str, float]]


@dataclass(frozen=True)
class BenchSizes:
    """The sizes of a benchmark: candidates, behaviours, rounds, CPU seconds per round, and items in Redis."""

    counts: tuple[int, ...]
    lengths: tuple[int, ...]
    rounds: int
    round_seconds: float
    items: int


@dataclass(frozen=True)
class Bench:
    """The sizes, scratch folder, Redis and load generator that every part of a run uses."""

    sizes: BenchSizes
    folder: Path
    redis_url: str
    driver: Driver


@dataclass(frozen=True)
class Model:
    """One model under test: its bundle, live in a registry of its own."""

    name: str
    run: Path
    registry: Path
    bundle: Path
    raw: Raw


def costs(bench: Bench, model: Model, ranking: Server, empty: Server, peer: Server) -> Table:
    """CPU milliseconds per request by size and contender, with all candidates in the item cache."""
    table: Table = {}
    for length in bench.sizes.lengths:
        for count in bench.sizes.counts:
            load = workload.make(bench.folder, count, length)
            inputs = model.raw.inputs_of(load)
            bench.driver.drive(ranking.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
            contenders: dict[str, Contender] = {
                "raw": partial(model.raw.cpu_seconds, inputs),
                "empty": over_http(bench.driver, empty, load),
                "service": over_http(bench.driver, ranking, load),
                "peer": over_http(bench.driver, peer, load),
            }
            table[count, length] = in_turn(contenders, bench.sizes.rounds, bench.sizes.round_seconds)
    return table


def cold_and_many(bench: Bench, model: Model, ranking: Server, empty: Server) -> dict[str, Any]:
    """The cost of ranking 200 candidates with few and with many items in Redis, with many versions, and with an empty
    cache.
    """
    load = workload.make(bench.folder, 200, 10)
    sizes = bench.sizes
    inputs = model.raw.inputs_of(load)
    warm: dict[str, Contender] = {
        "service": over_http(bench.driver, ranking, load),
        "raw": partial(model.raw.cpu_seconds, inputs),
        "empty": over_http(bench.driver, empty, load),
    }
    # Fill the item cache, then measure with few items, with many, and with many versions.
    bench.driver.drive(ranking.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
    few = in_turn(warm, sizes.rounds, sizes.round_seconds)
    with Redis.from_url(bench.redis_url) as redis:
        store.fill(redis, model.raw.layouts, TABLES, sizes.items, peer=False)
    bench.driver.drive(ranking.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
    many = in_turn(warm, sizes.rounds, sizes.round_seconds)
    publish_copies(model.bundle, _VERSIONS)
    versions = in_turn(warm, sizes.rounds, sizes.round_seconds)
    # Every candidate is missing from the cache, and the same number of requests with a warm cache right after.
    cold_load = workload.make_cold(bench.folder, 200, 10, min(sizes.items, 100_000))
    requests = len(cold_load.users)
    cold = over_http(bench.driver, ranking, cold_load)(requests) / requests * 1000
    warm_now = over_http(bench.driver, ranking, load)(requests) / requests * 1000
    # Ratios against the empty route of the same time, so that a busy machine does not decide.
    verdicts = [
        targets.Verdict(f"{model.name}: all candidates cold / warm, C=200 L=10", cold / warm_now, 2.0, at_least=False),
        targets.Verdict(
            f"{model.name}: overhead with {sizes.items:,} items / with {workload.HOT_ITEMS:,}, "
            "each against the empty route",
            targets.grown(few, many),
            1.15,
            at_least=False,
        ),
        targets.Verdict(
            f"{model.name}: overhead with {_VERSIONS} more versions published / without, each against the empty route",
            targets.grown(many, versions),
            1.15,
            at_least=False,
        ),
    ]
    return {
        "costs": {
            "few_items": few,
            "many_items": many,
            "many_versions": versions,
            "cold_ms": cold,
            "warm_ms": warm_now,
            "items": sizes.items,
        },
        "verdicts": verdicts,
    }


def publish_copies(bundle: Path, count: int) -> None:
    """Publish `count` more versions beside a bundle; their files are hard links."""
    for number in range(count):
        copy = bundle.parent / f"copy-{number}"
        copy.mkdir()
        for file in bundle.iterdir():
            os.link(file, copy / file.name)


def profile(bench: Bench, model: Model) -> list[profiled.Called]:
    """Profile the functions that the worker's event loop calls per request of 200 candidates.

    Raises RuntimeError if one of them is called once per candidate.
    """
    environment = {
        "FUNNELRANK_REGISTRY": str(model.registry),
        "FUNNELRANK_REDIS_URL": bench.redis_url,
        "FUNNELRANK_LOG_LEVEL": "warning",
    }
    load = workload.make(bench.folder, 200, 50)
    with application(
        "profiled", "bench.contenders.profiled:create_app", environment | {"UVICORN_FACTORY": "1"}
    ) as server:
        bench.driver.drive(server.port, "/rank", load.bodies, workload.BODIES * 2, CONNECTIONS)
        call("POST", f"http://127.0.0.1:{server.port}{profiled.START}", b"")
        bench.driver.drive(server.port, "/rank", load.bodies, _PROFILED_REQUESTS, CONNECTIONS)
        _, rows = call("POST", f"http://127.0.0.1:{server.port}{profiled.STOP}", b"")
        calls = profiled.called(rows, _PROFILED_REQUESTS)
    if looped := profiled.per_candidate(calls, 200):
        raise RuntimeError(f"called once per candidate: {', '.join(c.name for c in looped)}")
    return calls
