"""Measures a ranking of users with long sequences: SIM's search beside DIN over all behaviours, at several lengths."""

import os
import runpy
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis import Redis

from bench.contenders.raw import Raw
from bench.inputs import store, workload
from bench.inputs.runs import published, trained
from bench.measuring.driver import Driver
from bench.measuring.measure import Contender, in_turn, over_http
from bench.measuring.servers import Server, service
from bench.results.report import machine
from models.prepare.sample import sample_tables
from service.sample.embedded_redis import EmbeddedRedis

RECIPES = ("kuairand-sim", "kuairand-din")
LENGTHS = (50, 200, 1000)
_TABLES = Path("sample/kuairand")
_PART_BYTES = 1_000_000  # the speed does not depend on the quality of the model, so a part of the users will do
_ROUND_SECONDS = 0.3


@dataclass(frozen=True)
class Measured:
    """CPU milliseconds per request by contender (`RECIPE graph`, `RECIPE ranking`), and the bytes read from Redis."""

    behaviours: int
    read_bytes: int
    costs_ms: dict[str, float]


@dataclass(frozen=True)
class LongModel:
    """A bundle with sequences of up to 1,000 behaviours, and the service that ranks by it."""

    recipe: str
    raw: Raw
    server: Server


def measure_behaviours(candidates: int, rounds: int, runs: Path) -> list[Measured]:
    """Measure both models at every length, print the table, and return its rows."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as work,
        EmbeddedRedis() as redis,
        Driver() as driver,
        ExitStack() as stack,
    ):
        folder = Path(work)
        models = [_model(recipe, folder, runs, redis.url, stack) for recipe in RECIPES]
        layouts = models[0].raw.layouts
        # Both schemas have the same rows, so one load serves both.
        with Redis.from_url(redis.url) as client:
            store.fill(client, layouts, _TABLES, workload.HOT_ITEMS, peer=False)
            store.fill_users(client, layouts, _TABLES, LENGTHS)
        rows = []
        for length in LENGTHS:
            load = workload.make(folder, candidates, length)
            contenders: dict[str, Contender] = {}
            for model in models:
                inputs = model.raw.inputs_of(load)
                contenders[f"{model.recipe} graph"] = partial(model.raw.cpu_seconds, inputs)
                contenders[f"{model.recipe} ranking"] = over_http(driver, model.server, load)
            costs = in_turn(contenders, rounds, _ROUND_SECONDS)
            rows.append(Measured(length, layouts.member.itemsize * length, costs))
    print(table(candidates, rows))
    return rows


def _model(recipe: str, folder: Path, runs: Path, redis_url: str, stack: ExitStack) -> LongModel:
    """Train a recipe briefly on a part of the sample with sequences of 1,000, and serve it."""
    part = runs / "long" / "kuairand"
    if not (part / "impressions.parquet").exists():
        sample_tables(_TABLES, part, _PART_BYTES, seed=1)
    changes = (f"data.dir={part}", f"features.behaviour.max_length={LENGTHS[-1]}")
    registry = folder / recipe
    bundle = published(trained(recipe, runs / "long", changes), registry)
    return LongModel(recipe, Raw(bundle, redis_url), stack.enter_context(service(registry, redis_url)))


def table(candidates: int, rows: list[Measured]) -> str:
    """Return the figures as lines of text."""
    names = list(rows[0].costs_ms)
    lines = [
        f"{candidates} candidates, CPU ms per request, one worker, {machine()}",
        f"{'behaviours':>10} {'KiB read':>9} " + " ".join(f"{name:>22}" for name in names),
    ]
    for row in rows:
        costs = " ".join(f"{row.costs_ms[name]:>22.2f}" for name in names)
        lines.append(f"{row.behaviours:>10} {row.read_bytes / 1024:>9.1f} {costs}")
    return "\n".join(lines)


if __name__ == "__main__":  # `python -m bench.behaviours` is `funnelrank bench-behaviours`
    sys.argv.insert(1, "bench-behaviours")
    runpy.run_module("funnelrank", run_name="__main__")
