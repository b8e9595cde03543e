"""One run of the benchmark: measures everything in turn, prints it beside its targets, and writes JSON and a plot."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from bench.contenders import profiled
from bench.contenders.peer import BUNDLE, REDIS
from bench.contenders.raw import Raw
from bench.graphs import Compared, compare
from bench.inputs import store, workload
from bench.inputs.runs import ATTENTION, RECIPES, published, trained
from bench.measuring.cpu import cores, stay_on
from bench.measuring.driver import Driver
from bench.measuring.measure import CONNECTIONS, Contender, in_turn, over_http
from bench.measuring.servers import Server, application, service
from bench.results import report, targets
from bench.results.plot import write_plot
from bench.stages import stages
from service.sample.calls import call
from service.sample.embedded_redis import EmbeddedRedis

_TABLES = Path("sample/kuairand")
_PROFILED_REQUESTS = 300
_VERSIONS = 100
Table = dict[tuple[int, int], dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    counts: tuple[int, ...]
    lengths: tuple[int, ...]
    rounds: int
    round_seconds: float
    items: int


@dataclass(frozen=True)
class Bench:
    """What every part of a run needs."""

    plan: Plan
    folder: Path
    redis_url: str
    driver: Driver


@dataclass(frozen=True)
class Model:
    """One model that is measured: its bundle, live in a registry of its own."""

    name: str
    run: Path
    registry: Path
    bundle: Path
    raw: Raw


def run_bench(quick: bool, full: bool, out: Path, runs: Path) -> None:
    """Measure every model and write `out` (JSON) with the plot beside it; the short training runs are kept in `runs`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    plan = Plan((1, 20, 200, 1000), (0, 10, 50), 9, 0.15, 100_000)
    if quick:
        plan = Plan((20, 200), (0, 50), 5, 0.1, 50_000)
    if full:
        plan = replace(plan, items=1_000_000)
    own, others = cores()
    stay_on(others)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, EmbeddedRedis() as redis, Driver() as driver:
        stay_on(own)  # a process that wanders between cores leaves its caches behind
        bench = Bench(plan, Path(folder), redis.url, driver)
        found = {recipe: measured(bench, recipe, runs) for recipe in RECIPES}
    written(found, out)


def measured(bench: Bench, recipe: str, runs: Path) -> dict[str, Any]:
    """Everything about one model, printed as it comes."""
    run = trained(recipe, runs)
    registry = bench.folder / recipe
    bundle = published(run, registry)
    model = Model(recipe, run, registry, bundle, Raw(bundle, bench.redis_url))
    print(report.heading(recipe))
    with Redis.from_url(bench.redis_url) as redis:
        redis.flushall()
        store.fill(redis, model.raw.layouts, _TABLES, workload.HOT_ITEMS, peer=True)
        store.fill_users(redis, model.raw.layouts, _TABLES, tuple({0, 10, *bench.plan.lengths}))
    with servers(bench, model) as (ranking, empty, peer):
        table = costs(bench, model, ranking, empty, peer)
        more = cold_and_many(bench, model, ranking, empty)
        memory = ranking.memory_mib()
    step_costs = stages(bundle, bench.redis_url, workload.make(bench.folder, 200, 50))
    calls = profile(bench, model)
    sizes = [(1, 50), (20, 50), (200, 0), (200, 50)]
    compared = compare(run, sizes, bench.plan.rounds, bench.plan.round_seconds)
    verdicts = [
        *targets.of_service(recipe, table),
        *targets.of_graphs(recipe, compared, recipe in ATTENTION),
        *more["verdicts"],
    ]
    verdicts += targets.of_peer(recipe, table) if recipe not in ATTENTION else []
    print(
        report.table(table),
        report.more(more["costs"], memory),
        report.stage_table(step_costs, table[200, 50]),
        sep="\n",
    )
    print(
        report.profile(calls, 200),
        report.graphs(compared),
        report.density(table),
        *(v.line() for v in verdicts),
        sep="\n",
        flush=True,
    )
    return {
        "table": table,
        "more": more["costs"],
        "memory_mib": memory,
        "stages_us": step_costs,
        "graphs": compared,
        "verdicts": verdicts,
    }


@contextmanager
def servers(bench: Bench, model: Model) -> Iterator[tuple[Server, Server, Server]]:
    environment = {BUNDLE: str(model.bundle), REDIS: bench.redis_url}
    with (
        service(model.registry, bench.redis_url) as ranking,
        application("empty", "bench.contenders.empty:app", {}) as empty,
        application("peer", "bench.contenders.peer:app", environment) as peer,
    ):
        yield ranking, empty, peer


def costs(bench: Bench, model: Model, ranking: Server, empty: Server, peer: Server) -> Table:
    """CPU milliseconds per request by size and contender, with all candidates in the item cache."""
    table: Table = {}
    for length in bench.plan.lengths:
        for count in bench.plan.counts:
            load = workload.make(bench.folder, count, length)
            inputs = model.raw.inputs_of(load)
            bench.driver.drive(ranking.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
            contenders: dict[str, Contender] = {
                "raw": partial(model.raw.cpu_seconds, inputs),
                "empty": over_http(bench.driver, empty, load),
                "service": over_http(bench.driver, ranking, load),
                "peer": over_http(bench.driver, peer, load),
            }
            table[count, length] = in_turn(contenders, bench.plan.rounds, bench.plan.round_seconds)
    return table


def cold_and_many(bench: Bench, model: Model, ranking: Server, empty: Server) -> dict[str, Any]:
    """What a ranking of 200 costs with few and with many items in Redis, and when none of its candidates is in the cache."""
    load = workload.make(bench.folder, 200, 10)
    plan = bench.plan
    inputs = model.raw.inputs_of(load)
    warm: dict[str, Contender] = {
        "service": over_http(bench.driver, ranking, load),
        "raw": partial(model.raw.cpu_seconds, inputs),
        "empty": over_http(bench.driver, empty, load),
    }
    bench.driver.drive(ranking.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
    few = in_turn(warm, plan.rounds, plan.round_seconds)
    with Redis.from_url(bench.redis_url) as redis:
        store.fill(redis, model.raw.layouts, _TABLES, plan.items, peer=False)
    bench.driver.drive(ranking.port, "/rank", load.bodies, workload.BODIES, CONNECTIONS)
    many = in_turn(warm, plan.rounds, plan.round_seconds)
    publish_copies(model.bundle, _VERSIONS)
    versions = in_turn(warm, plan.rounds, plan.round_seconds)
    cold_load = workload.make_cold(bench.folder, 200, 10, min(plan.items, 100_000))
    requests = len(cold_load.users)
    cold = over_http(bench.driver, ranking, cold_load)(requests) / requests * 1000
    warm_now = over_http(bench.driver, ranking, load)(requests) / requests * 1000
    verdicts = [
        targets.Verdict(f"{model.name}: all candidates cold / warm, C=200 L=10", cold / warm_now, 2.0, at_least=False),
        targets.Verdict(
            f"{model.name}: overhead with {plan.items:,} items / with {workload.HOT_ITEMS:,}, each against the empty route",
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
            "items": plan.items,
        },
        "verdicts": verdicts,
    }


def publish_copies(bundle: Path, count: int) -> None:
    """`count` more versions beside a bundle, its files linked."""
    for number in range(count):
        copy = bundle.parent / f"copy-{number}"
        copy.mkdir()
        for file in bundle.iterdir():
            os.link(file, copy / file.name)


def profile(bench: Bench, model: Model) -> list[profiled.Called]:
    """What the worker's event loop runs per request of 200 candidates. Raises RuntimeError where something runs once per candidate."""
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
        found = profiled.called(rows, _PROFILED_REQUESTS)
    if looped := profiled.per_candidate(found, 200):
        raise RuntimeError(f"called once per candidate: {', '.join(c.name for c in looped)}")
    return found


def written(found: dict[str, dict[str, Any]], out: Path) -> None:
    """JSON and, beside it, the plot."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        name: of_model | {"table": [{"candidates": c, "behaviours": n} | v for (c, n), v in of_model["table"].items()]}
        for name, of_model in found.items()
    }
    out.write_bytes(
        orjson.dumps({"machine": report.machine(), "models": plain}, option=orjson.OPT_INDENT_2, default=_plain)
    )
    write_plot(out.with_suffix(".html"), {name: of_model["table"] for name, of_model in found.items()})
    print(f"written: {out} and {out.with_suffix('.html')}")


def _plain(value: Any) -> Any:
    if isinstance(value, Compared):
        return asdict(value) | {"ratio": value.ratio}
    return asdict(value) | {"passed": value.passed}
