"""Measures what a console that somebody looks at costs: CPU milliseconds of its repeated calls, and their share of a
worker's CPU time.

The sample is served with two workers that have ranked. The history of the metrics is filled up to the three days that
it holds, because an answer of `/stats` reads all of it.
"""

import fcntl
import http.client
import runpy
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import orjson

from bench.measuring.cpu import cores, stay_on
from bench.measuring.driver import Driver
from bench.measuring.measure import Contender, in_turn
from bench.measuring.servers import Server, service
from bench.results.targets import Verdict
from service.bundle.registry import folder_of
from service.bundle.verify import read_manifest
from service.metrics.history import STEPS, History, loads
from service.rollout.rollout import read_rollout
from service.sample.calls import call
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.loading.load import load_folder

_SAMPLE = Path(__file__).parents[1] / "sample"
_RANKINGS = 400
_PATIENCE_S = 30
_MOST_PERCENT = 1.0
_STATS = "/stats?window_s=300"
# The calls that a page of the console repeats, with the milliseconds between two of them (console/src/pages).
PAGES: Mapping[str, tuple[int, Sequence[str]]] = {
    "now": (5000, (_STATS,)),
    "versions": (2000, ("/models", "/metrics")),
    "weights/experiments": (5000, ("/metrics",)),
}


def measure_console(rounds: int = 5) -> list[Verdict]:
    """Measure every page, print it beside the bound, and return the verdicts."""
    own, others = cores()
    with tempfile.TemporaryDirectory(prefix="bench-console-") as work, EmbeddedRedis() as redis, Driver() as driver:
        folder = Path(work)
        manifest = read_manifest(folder_of(_SAMPLE / "registry", read_rollout(_SAMPLE / "registry").stable))
        load_folder(_SAMPLE / "kuairand", manifest.feature_schema, redis.url)
        settings = {"fusion_file": _SAMPLE / "fusion.yaml", "runtime_dir": folder / "run"}
        stay_on(own)
        with service(_SAMPLE / "registry", redis.url, 2, **settings) as server:
            stay_on(others)
            bodies = folder / "bodies.jsonl"
            bodies.write_bytes(orjson.dumps(orjson.loads((_SAMPLE / "request.json").read_bytes())))
            driver.drive(server.port, "/rank", bodies, _RANKINGS, 8)
            fill_history(folder / "run")
            _check_history(server)
            paths = sorted({path for _, calls in PAGES.values() for path in calls})
            costs = in_turn({path: _getting(server, path) for path in paths}, rounds, 0.3)
    for path, ms in costs.items():
        print(f"GET {path:<22} {ms:6.2f} CPU ms")
    verdicts = verdicts_of(costs)
    print(*(verdict.line() for verdict in verdicts), sep="\n", flush=True)
    return verdicts


def verdicts_of(costs: Mapping[str, float]) -> list[Verdict]:
    """Each page's share of a worker's CPU time, in percent. `costs` has CPU milliseconds by path."""
    verdicts = []
    for page, (interval_ms, calls) in PAGES.items():
        percent = 100 * sum(costs[path] for path in calls) / interval_ms
        title = f"console: % of a worker's CPU time while one person looks at {page}"
        verdicts.append(Verdict(title, percent, _MOST_PERCENT, at_least=False))
    return verdicts


def fill_history(runtime: Path) -> None:
    """Give a service the history of a host that has run for three days. Raises TimeoutError if it has none yet."""
    end = time.monotonic() + _PATIENCE_S
    while not (histories := list(runtime.glob("*/history"))):
        if time.monotonic() > end:
            raise TimeoutError(f"no history of metrics in {runtime}")
        time.sleep(0.05)
    path = histories[0]
    with (path.parent / "history.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        full = of_three_days(loads(path.read_bytes()))
        temporary = path.with_suffix(".bench")
        temporary.write_bytes(full.dumps())
        temporary.replace(path)


def of_three_days(history: History) -> History:
    """A history with samples of every age, whose counters grow evenly to the newest ones of `history`."""
    newest = history.times[-1]
    row = history.rows[-1]
    times = [newest - age for age in sorted(_ages(), reverse=True)]
    span = newest - times[0]
    rows = [array("d", (value * (moment - times[0]) / span for value in row)) for moment in times]
    return History(dict(history.keys), times, rows)


def _ages() -> Iterator[float]:
    """The ages in seconds at which a history has samples."""
    age = 0.0
    for longest, step in STEPS:
        while age <= longest:
            yield age
            age += step


def _check_history(server: Server) -> None:
    """Raise RuntimeError unless the service answers with figures of the three days."""
    status, answer = call("GET", f"http://127.0.0.1:{server.port}/stats?window_s={int(STEPS[-2][0])}")
    if status != 200 or answer["window"]["covered_s"] < STEPS[-2][0] or not answer["traffic"]["n"]:
        raise RuntimeError(f"the history was not filled: {status} {answer}")


def _getting(server: Server, path: str) -> Contender:
    """CPU seconds that the service uses for a number of answers, all by one worker over one connection."""

    def cost(requests: int) -> float:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
            before = server.cpu_seconds()
            for _ in range(requests):
                connection.request("GET", path)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{path} was answered {answer.status}: {content[:500]!r}")
            return server.cpu_seconds() - before

    return cost


if __name__ == "__main__":  # `python -m bench.console` is `funnelrank bench-console`
    sys.argv.insert(1, "bench-console")
    runpy.run_module("funnelrank", run_name="__main__")
