"""Measures a brown-out: who gets an answer in time at 1.8 times the highest rate that meets the deadline without one.

The service has one worker on a core of its own; the load, open-loop and due by a Poisson process, and Redis are on the
other cores.
"""

import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop
from redis import Redis

from bench.contenders.raw import Raw
from bench.costs import TABLES
from bench.inputs import store, workload
from bench.inputs.runs import published, trained
from bench.measuring.cpu import cores, stay_on
from bench.measuring.open_loop import Client, Load, highest_rate, offered, request_of
from bench.measuring.servers import Server, service
from bench.results.report import machine
from bench.results.targets import Verdict
from service.sample.calls import call
from service.sample.embedded_redis import EmbeddedRedis

STABLE = "kuairand-mmoe-din"
SMALL = "kuairand-esmm"
TIMES = 1.8
IN_TIME_MS = 400  # of the longest wait's 250
_BEHAVIOURS = 50
_TOP_K = 50
_ENOUGH = 0.99  # of the callers
_TOKEN = "bench"  # nosec B105 # of a service on the loopback address that ends with the run
_STEPS = 4  # outcomes of the metric: a full ranking, and three steps


@dataclass(frozen=True)
class OverloadSizes:
    """The sizes of one run: candidates, the seconds of a probe and of a load, and the seed of the arrivals."""

    candidates: int
    probe_seconds: float
    load_seconds: float
    bisections: int
    seed: int


@dataclass(frozen=True)
class OfferedLoad:
    """A load of `rate` per second, and the server's CPU milliseconds per ranking that was answered."""

    rate: float
    load: Load
    cpu_ms: float

    @property
    def in_time(self) -> float:
        return self.load.in_time(IN_TIME_MS)

    def line(self, title: str) -> str:
        answers = ", ".join(f"{len(ms)} x {status}" for status, ms in sorted(self.load.ms.items()))
        return (
            f"{title:<38} {self.rate:7.0f}/s  in time {100 * self.in_time:6.2f} %  p50 {self.load.percentile(0.5):4.0f}"
            f"  p99 {self.load.percentile(0.99):4.0f} ms  CPU {self.cpu_ms:6.3f} ms  ({answers}; "
            f"driver late by {self.load.lag_ms:.0f} ms)"
        )


def run_brownout(candidates: int, quick: bool, seed: int, runs: Path) -> Verdict:
    """Print the highest rate without a brown-out, the shares in time at 1.8 times it, the floor, and the losses."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sizes = OverloadSizes(candidates, 3.0, 20.0, 4, seed)
    if quick:
        sizes = OverloadSizes(candidates, 1.0, 3.0, 1, seed)
    print(f"brown-out: {STABLE} after {SMALL}, C={candidates} L={_BEHAVIOURS}, deadline {IN_TIME_MS} ms,")
    print(f"arrivals of seed {seed}, {machine()}", flush=True)
    own, others = cores()
    stay_on(others)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, EmbeddedRedis() as redis:
            return _measured(sizes, Path(folder), redis.url, runs, own, others)
    finally:
        stay_on(own | others)


def _measured(
    sizes: OverloadSizes, folder: Path, redis_url: str, runs: Path, own: set[int], others: set[int]
) -> Verdict:
    # The pair of bundles, the rows in Redis, and the requests.
    registry = folder / "registry"
    published(trained(SMALL, runs), registry)
    raw = Raw(published(trained(STABLE, runs), registry), redis_url)
    with Redis.from_url(redis_url) as redis:
        store.fill(redis, raw.layouts, TABLES, workload.HOT_ITEMS, peer=False)
        store.fill_users(redis, raw.layouts, TABLES, (_BEHAVIOURS,))
    drawn = workload.make(folder, sizes.candidates, _BEHAVIOURS)
    bodies = [orjson.loads(line) for line in drawn.bodies.read_bytes().splitlines()]
    requests = [request_of(body | {"top_k": _TOP_K, "timeout_ms": IN_TIME_MS}) for body in bodies]
    inputs = raw.inputs_of(drawn)
    model_ms = min(raw.cpu_seconds(inputs, 50) for _ in range(3)) / 50 * 1000
    # Without a brown-out: the highest rate, and what it takes.
    with _started(own, others, registry, redis_url) as server:
        _warm(server, bodies)
        rate = uvloop.run(_highest(server, requests, sizes, start=0.7 * 1000 / _cpu_ms_alone(server, bodies)))
        at_rate = uvloop.run(_offered(server, requests, rate, sizes))
        print(at_rate.line("the highest rate in time, without"), flush=True)
        without = uvloop.run(_offered(server, requests, TIMES * rate, sizes))
        print(without.line(f"{TIMES} times that rate, without"), flush=True)
    # With one.
    with _started(own, others, registry, redis_url, brownout="true", admin_token=_TOKEN) as server:
        _warm(server, bodies)
        losses = _named_first_pass(server)
        steps_before = _rankings_by_step(server)
        with_it = uvloop.run(_offered(server, requests, TIMES * rate, sizes))
        print(with_it.line(f"{TIMES} times that rate, with brown-out"))
        steps = [after - earlier for after, earlier in zip(_rankings_by_step(server), steps_before, strict=True)]
    # The bounds.
    print(f"rankings by step 0 to 3: {steps}; lost by step (1 - nDCG@10): {losses}")
    print(floor_line(at_rate.cpu_ms, model_ms))
    title = f"brown-out: % of the callers in time at {TIMES} times the rate, C={sizes.candidates}"
    verdict = Verdict(title, 100 * with_it.in_time, 100 * _ENOUGH, at_least=True)
    print(verdict.line(), flush=True)
    return verdict


def floor_line(ranking_ms: float, model_ms: float) -> str:
    """Say how much of a ranking's CPU no brown-out can save: all but the model's."""
    measured = f"CPU per ranking {ranking_ms:.3f} ms, of which the model {model_ms:.3f}"
    floor_ms = ranking_ms - model_ms
    if floor_ms <= 0:
        return f"{measured}, called alone: too noisy for a floor; run it again on a quiet machine"
    times = ranking_ms / floor_ms
    return f"{measured}: the floor is {floor_ms:.3f} ms, so no brown-out answers more than {times:.2f} times the rate"


@contextmanager
def _started(own: set[int], others: set[int], registry: Path, redis_url: str, **settings: object) -> Iterator[Server]:
    """Start a service with one worker on the cores `own`; this process stays on the `others`."""
    stay_on(own)
    try:
        with service(registry, redis_url, 1, **settings) as server:
            stay_on(others)
            yield server
    finally:
        stay_on(others)


def _warm(server: Server, bodies: Sequence[dict[str, object]]) -> None:
    """Send each request once, without a deadline that matters."""
    for body in bodies:
        status, answer = call("POST", f"http://127.0.0.1:{server.port}/rank", body | {"timeout_ms": 10_000})
        if status != 200:
            raise RuntimeError(f"a ranking was answered {status}: {answer}")


def _cpu_ms_alone(server: Server, bodies: Sequence[dict[str, object]]) -> float:
    before = server.cpu_seconds()
    _warm(server, bodies)
    return (server.cpu_seconds() - before) / len(bodies) * 1000


async def _highest(server: Server, requests: Sequence[bytes], sizes: OverloadSizes, start: float) -> float:
    """The highest rate at which 99 % of the callers get an answer in time."""
    client = Client(server.port)

    async def meets(rate: float) -> bool:
        load = await offered(client, requests, rate, sizes.probe_seconds, settling=0.5, seed=sizes.seed)
        return load.in_time(IN_TIME_MS) >= _ENOUGH

    try:
        return await highest_rate(meets, start, factor=1.5, bisections=sizes.bisections, steps=6)
    finally:
        await client.close()


async def _offered(server: Server, requests: Sequence[bytes], rate: float, sizes: OverloadSizes) -> OfferedLoad:
    client = Client(server.port)
    try:
        before = server.cpu_seconds()
        load = await offered(client, requests, rate, sizes.load_seconds, seed=sizes.seed + 1)
        cpu = server.cpu_seconds() - before
        return OfferedLoad(rate, load, cpu * 1000 / max(1, len(load.ms.get(200, []))))
    finally:
        await client.close()


def _named_first_pass(server: Server) -> dict[str, float]:
    """Name the small version in the rollout; return the loss of each step once the worker has measured it."""
    url = f"http://127.0.0.1:{server.port}/models"
    change = {"first_pass": {"name": SMALL, "version": "1"}}
    status, answer = call("PUT", f"{url}/rollout", change, _TOKEN, timeout_s=60)
    if status != 200:
        raise RuntimeError(f"the first pass was refused: {status} {answer}")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        _, shown = call("GET", url)
        for worker in shown["workers"]:
            losses: dict[str, float] = worker["gate"].get(f"{SMALL}/1", {}).get("brownout", {})
            if losses:
                return losses
        time.sleep(0.2)
    raise RuntimeError("the worker did not load the first pass in 30 s")


def _rankings_by_step(server: Server) -> list[int]:
    """The number of rankings so far: full ones, and those of the steps 1 to 3."""
    _, page = call("GET", f"http://127.0.0.1:{server.port}/metrics")
    counts = [0] * _STEPS
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("funnelrank_brownout_rankings_total{"):
            counts[int(name.split('"')[1])] = int(float(value))
        if name == 'funnelrank_stage_duration_seconds_count{stage="respond"}':
            counts[0] = int(float(value))
    return [counts[0] - sum(counts[1:]), *counts[1:]]


if __name__ == "__main__":  # `python -m bench.brownout` is `funnelrank bench-brownout`
    sys.argv.insert(1, "bench-brownout")
    runpy.run_module("funnelrank", run_name="__main__")
