"""Compares workers, ONNX Runtime threads, spinning and scoring in a thread: CPU time and rate of each in one run."""

import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from bench.contenders.raw import Raw
from bench.contenders.variants import NAMES, VARIANT
from bench.inputs import store, workload
from bench.inputs.runs import published, trained
from bench.measuring.driver import Driver
from bench.measuring.servers import Server, application, service
from bench.results.report import machine
from service.sample.embedded_redis import EmbeddedRedis

_TABLES = Path("sample/kuairand")
_CONNECTIONS = 8
_ROUNDS = 5


@dataclass
class Setting:
    """One way to run the service, its CPU milliseconds per request, and its requests per second."""

    name: str
    server: Server
    cpu_ms: list[float]
    rates: list[float]


def settings_of(stack: ExitStack, registry: Path, redis_url: str) -> Iterator[Setting]:
    for workers in (1, 2):
        for threads in (1, 2):
            server = stack.enter_context(service(registry, redis_url, workers, model_threads=threads))
            yield Setting(f"{workers} x {threads}", server, [], [])
    environment = {
        "FUNNELRANK_REGISTRY": str(registry),
        "FUNNELRANK_REDIS_URL": redis_url,
        "UVICORN_FACTORY": "1",
        "FUNNELRANK_LOG_LEVEL": "warning",
    }
    environment |= {"FUNNELRANK_REDIS_TIMEOUT_MS": "5000"}
    for name in NAMES:
        for threads in (1, 2) if name == "spinning" else (1,):
            varied = environment | {VARIANT: name, "FUNNELRANK_MODEL_THREADS": str(threads)}
            server = stack.enter_context(application(name, "bench.contenders.variants:create_app", varied))
            yield Setting(f"1 x {threads}, {name}", server, [], [])


def measure(setting: Setting, driver: Driver, load: workload.RequestSet, requests: int) -> None:
    cpu = setting.server.cpu_seconds()
    started = time.perf_counter()
    driver.drive(setting.server.port, "/rank", load.bodies, requests, _CONNECTIONS)
    setting.rates.append(requests / (time.perf_counter() - started))
    setting.cpu_ms.append((setting.server.cpu_seconds() - cpu) / requests * 1000)


def compare_threads(recipe: str, requests: int, runs: Path) -> None:
    """Measure every setting in turn and print the table; `requests` per setting and round."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedRedis() as redis,
        Driver() as driver,
        ExitStack() as stack,
    ):
        registry = Path(folder) / "registry"
        raw = Raw(published(trained(recipe, runs), registry), redis.url)
        with Redis.from_url(redis.url) as client:
            store.fill(client, raw.layouts, _TABLES, workload.HOT_ITEMS, peer=False)
            store.fill_users(client, raw.layouts, _TABLES, (50,))
        settings = list(settings_of(stack, registry, redis.url))
        print(f"{recipe}, 50 behaviours, {_CONNECTIONS} connections, medians of {_ROUNDS} rounds, {machine()}")
        for candidates in (200, 1000):
            load = workload.make(Path(folder), candidates, 50)
            table(settings, driver, load, max(requests * 200 // candidates, 40))


def table(settings: list[Setting], driver: Driver, load: workload.RequestSet, requests: int) -> None:
    """Measure all settings in turn, round by round, so that a busy machine slows them alike.

    The first round does not count.
    """
    for _ in range(_ROUNDS + 1):
        for setting in settings:
            measure(setting, driver, load, requests)
    print(f"\n{'workers x threads, C=' + str(load.candidates):<32} {'CPU ms':>8} {'requests/s':>11}")
    for setting in settings:
        print(f"{setting.name:<32} {_median(setting.cpu_ms):>8.2f} {_median(setting.rates):>11.0f}", flush=True)
        setting.cpu_ms.clear()
        setting.rates.clear()


def _median(values: list[float]) -> float:
    return sorted(values[1:])[len(values[1:]) // 2]


if __name__ == "__main__":  # `python -m bench.threads` is `funnelrank bench-threads`
    sys.argv.insert(1, "bench-threads")
    runpy.run_module("funnelrank", run_name="__main__")
