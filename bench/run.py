"""One run of the benchmark: measures everything, prints it beside its targets, and writes JSON and a plot."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from bench import counters, rules, tracing
from bench.contenders.peer import BUNDLE, REDIS
from bench.contenders.raw import Raw
from bench.costs import TABLES, Bench, BenchSizes, Model, cold_and_many, costs, profile
from bench.graphs import Compared, compare
from bench.inputs import store, workload
from bench.inputs.runs import ATTENTION, RECIPES, published, trained
from bench.measuring.cpu import cores, stay_on
from bench.measuring.driver import Driver
from bench.measuring.servers import Server, application, service
from bench.results import report, targets
from bench.results.plot import write_plot
from bench.stages import stages
from service.sample.embedded_redis import EmbeddedRedis


def run_bench(quick: bool, full: bool, out: Path, runs: Path) -> None:
    """Measure every model and write `out` (JSON) and its plot; the short training runs stay in `runs`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sizes = BenchSizes((1, 20, 200, 1000), (0, 10, 50), 9, 0.15, 100_000)
    if quick:
        sizes = BenchSizes((20, 200), (0, 50), 5, 0.1, 50_000)
    if full:
        sizes = replace(sizes, items=1_000_000)
    own, others = cores()
    stay_on(others)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, EmbeddedRedis() as redis, Driver() as driver:
        stay_on(own)  # a process that wanders between cores leaves its caches behind
        bench = Bench(sizes, Path(folder), redis.url, driver)
        figures = {recipe: measured(bench, recipe, runs) for recipe in RECIPES}
        rule_costs = rules.rules_ms()
        counter_cost = counters.counters_ms()
        trace_cost = tracing.traces_ms()
    print(*(verdict.line() for verdict in rules.verdicts(rule_costs)), sep="\n", flush=True)
    print(counters.verdict(counter_cost).line(), flush=True)
    # Against the cheapest ranking of 200 candidates.
    tables = [figure["table"] for figure in figures.values()]
    cheapest = min(of_size["service"] for table in tables for (count, _), of_size in table.items() if count == 200)
    print(tracing.verdict(trace_cost, cheapest).line(), flush=True)
    write(figures, rule_costs, counter_cost, trace_cost, out)


def measured(bench: Bench, recipe: str, runs: Path) -> dict[str, Any]:
    """Measure everything about one model, print it, and return it as plain data and verdicts."""
    # The model, live in a registry of its own, and its rows in Redis.
    run = trained(recipe, runs)
    registry = bench.folder / recipe
    bundle = published(run, registry)
    model = Model(recipe, run, registry, bundle, Raw(bundle, bench.redis_url))
    print(report.heading(recipe))
    with Redis.from_url(bench.redis_url) as redis:
        redis.flushall()
        store.fill(redis, model.raw.layouts, TABLES, workload.HOT_ITEMS, peer=True)
        store.fill_users(redis, model.raw.layouts, TABLES, tuple({0, 10, *bench.sizes.lengths}))
    # Over HTTP, then inside this process, then the graphs by themselves.
    with servers(bench, model) as (ranking, empty, peer):
        table = costs(bench, model, ranking, empty, peer)
        more = cold_and_many(bench, model, ranking, empty)
        memory = ranking.memory_mib()
    step_costs = stages(bundle, bench.redis_url, workload.make(bench.folder, 200, 50))
    calls = profile(bench, model)
    pairs = [(1, 50), (20, 50), (200, 0), (200, 50)]
    compared = compare(run, pairs, bench.sizes.rounds, bench.sizes.round_seconds)
    # The bounds of the figures.
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


def write(
    figures: dict[str, dict[str, Any]], rule_costs: dict[str, float], counter_cost: float, trace_cost: float, out: Path
) -> None:
    """Write the figures as JSON and, beside it, the plot."""
    out.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        name: of_model | {"table": [{"candidates": c, "behaviours": n} | v for (c, n), v in of_model["table"].items()]}
        for name, of_model in figures.items()
    }
    out.write_bytes(
        orjson.dumps(
            {
                "machine": report.machine(),
                "models": plain,
                "rules_ms": rule_costs,
                "counters_ms": counter_cost,
                "traces_ms": trace_cost,
            },
            option=orjson.OPT_INDENT_2,
            default=_plain,
        )
    )
    write_plot(out.with_suffix(".html"), {name: of_model["table"] for name, of_model in figures.items()})
    print(f"written: {out} and {out.with_suffix('.html')}")


def _plain(value: Any) -> Any:
    if isinstance(value, Compared):
        return asdict(value) | {"ratio": value.ratio}
    return asdict(value) | {"passed": value.passed}
