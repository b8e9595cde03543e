"""Compares a ranking's CPU time with the same handler under FastAPI, BentoML and Ray Serve, each with one worker.

The handler is that of `bench/contenders/peer.py`. BentoML and Ray Serve run in environments of their own, which need
`requirements/serve.txt` (without OpenTelemetry, of which BentoML asks for an older one) and the framework. What a
server uses while nobody asks is subtracted, because Ray's processes work all the time.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from bench.contenders.peer import BUNDLE, REDIS
from bench.contenders.raw import Raw
from bench.costs import TABLES
from bench.inputs import store, workload
from bench.inputs.runs import RECIPES, published, trained
from bench.measuring.cpu import cores, stay_on
from bench.measuring.driver import Driver
from bench.measuring.measure import CONNECTIONS, Contender, in_turn
from bench.measuring.servers import Server, application, free_server, service
from bench.results import report
from service.sample.calls import call
from service.sample.embedded_redis import EmbeddedRedis

_BEHAVIOURS = 50
_COUNTS = (20, 200)
_IDLE_SECONDS = 3.0
_ROOT = Path(__file__).parents[1]
# No framework reports its use to its makers.
_QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # otherwise Ray writes a key into the home folder
    "PYTHONPATH": str(_ROOT),
}
_BENTO = "bench.contenders.bento_peer:BentoRanker"
_RAY = "from bench.contenders.ray_peer import main; main({port})"
# The arguments of the interpreter, with {port}, and the address that answers when the server is ready.
_COMMANDS: Mapping[str, tuple[Sequence[str], str]] = {
    "bentoml": (("-m", "bentoml", "serve", _BENTO, "--host", "127.0.0.1", "--port", "{port}"), "/readyz"),
    "ray": (("-c", _RAY), "/openapi.json"),
}


def compare_peers(pythons: Mapping[str, str], rounds: int, runs: Path, out: Path) -> None:
    """Measure every server with every model, print a table and write `out`.

    `pythons` has the interpreters that have the frameworks, by `bentoml` and `ray`. Raises RuntimeError if a server
    ranks otherwise than the plain one.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    versions = {name: _version(name, python) for name, python in pythons.items()}
    own, others = cores()
    stay_on(others)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as work, EmbeddedRedis() as redis, Driver() as driver:
        stay_on(own)
        for recipe in RECIPES:
            # The model, its rows in Redis, and a server of each kind.
            registry = Path(work) / recipe
            bundle = published(trained(recipe, runs), registry)
            raw = Raw(bundle, redis.url)
            with Redis.from_url(redis.url) as client:
                client.flushall()
                store.fill(client, raw.layouts, TABLES, workload.HOT_ITEMS, peer=True)
                store.fill_users(client, raw.layouts, TABLES, (_BEHAVIOURS,))
            with _servers(pythons, registry, bundle, redis.url, Path(work)) as servers:
                for count in _COUNTS:
                    load = workload.make(Path(work), count, _BEHAVIOURS)
                    _check_alike(servers, load.bodies)
                    idle = {name: _idle(server) for name, server in servers.items()}
                    contenders = {name: _above_idle(driver, servers[name], load.bodies, idle[name]) for name in servers}
                    costs = in_turn(contenders, rounds, 0.3)
                    rows.append({"model": recipe, "candidates": count, "cpu_ms": costs, "idle": idle})
                    print(_line(rows[-1]), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": report.machine(), "versions": versions, "rounds": rounds, "rows": rows}
    out.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    print(json.dumps(versions), f"written: {out}", sep="\n")


def _line(row: Mapping[str, Any]) -> str:
    """The cost of each server, with its ratio to funnelrank's."""
    own = row["cpu_ms"]["funnelrank"]
    shown = (f"{name} {ms:.2f} ms ({ms / own:.1f})" for name, ms in row["cpu_ms"].items())
    return f"{row['model']:<20}C={row['candidates']:<5}{'   '.join(shown)}"


@contextmanager
def _servers(
    pythons: Mapping[str, str], registry: Path, bundle: Path, redis_url: str, work: Path
) -> Iterator[dict[str, Server]]:
    environment = {BUNDLE: str(bundle), REDIS: redis_url}
    with ExitStack() as started:
        servers = {
            "funnelrank": started.enter_context(service(registry, redis_url)),
            "fastapi": started.enter_context(application("peer", "bench.contenders.peer:app", environment)),
        }
        for name, python in pythons.items():
            arguments, ready = _COMMANDS[name]
            own = environment | _QUIET | {"BENTOML_HOME": str(work / "bentoml")}
            servers[name] = started.enter_context(free_server(name, [python, *arguments], own, ready))
        yield servers


def _check_alike(servers: Mapping[str, Server], bodies: Path) -> None:
    """Rank one request everywhere. Raises RuntimeError if a framework's answer is not that of plain FastAPI."""
    body = bodies.read_bytes().splitlines()[0]
    answers = {name: call("POST", f"http://127.0.0.1:{server.port}/rank", body) for name, server in servers.items()}
    for name, (status, answer) in answers.items():
        if status != 200 or (name != "funnelrank" and answer != answers["fastapi"][1]):
            raise RuntimeError(f"{name} answered {status}, {str(answer)[:500]}")


def _idle(server: Server) -> float:
    """CPU seconds per second that a server uses while nobody asks it."""
    before = server.cpu_seconds()
    started = time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (server.cpu_seconds() - before) / (time.monotonic() - started)


def _above_idle(driver: Driver, server: Server, bodies: Path, idle: float) -> Contender:
    """CPU seconds of a number of requests, without what the server uses anyway."""

    def cost(requests: int) -> float:
        before = server.cpu_seconds()
        started = time.monotonic()
        driver.drive(server.port, "/rank", bodies, requests, CONNECTIONS)
        return server.cpu_seconds() - before - idle * (time.monotonic() - started)

    return cost


def _version(name: str, python: str) -> str:
    program = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":  # `python -m bench.peers` is `funnelrank bench-peers`
    sys.argv.insert(1, "bench-peers")
    runpy.run_module("funnelrank", run_name="__main__")
